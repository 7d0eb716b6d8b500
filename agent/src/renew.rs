//! Renewal of the agent's certificate, with a fresh key each time, long before it ends.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_proto::error::{ErrorDetail, detail_of};
use holdfast_proto::v1::RenewCertificateRequest;
use holdfast_proto::v1::agent_service_client::AgentServiceClient;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::backoff::Backoff;
use crate::blocking::blocking;
use crate::identity::{AgentRecord, Identity, IdentityError, KeyRequest, Validity};
use crate::state_dir::StateDir;
use crate::tls::{ClientTls, TlsError};

/// Part of a certificate's life after which it is renewed.
const RENEW_AT: f64 = 0.7;
/// Half-width of the random spread around [`RENEW_AT`], so that a fleet does not renew in one minute.
const RENEW_JITTER: f64 = 0.05;
/// Longest sleep between two looks at the clock: a sleep does not count the time in which the machine is suspended, nor that
/// by which the clock is set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(3600);

/// Keeps the identity fresh while the agent runs.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(crate) state: Arc<StateDir>,
    pub(crate) tls: Arc<ClientTls>,
    /// The session's connection, while there is one.
    pub(crate) live: watch::Receiver<Option<Channel>>,
    pub(crate) call_timeout: Duration,
}

/// Why the certificate was not renewed this time.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
    #[error("the controller did not answer in time")]
    Timeout,
    #[error("the controller refused: {}", .0.message)]
    Refused(Box<ErrorDetail>),
    #[error("the new certificate cannot be used")]
    Identity(#[from] IdentityError),
    #[error("the new certificate cannot be used for TLS")]
    Tls(#[from] TlsError),
}

impl RenewError {
    /// What a person can do, if the controller says it.
    fn action(&self) -> Option<&str> {
        match self {
            Self::Refused(detail) => Some(detail.action.as_str()).filter(|action| !action.is_empty()),
            Self::Key(_) | Self::Timeout | Self::Identity(_) | Self::Tls(_) => None,
        }
    }
}

impl Renewal {
    /// Renews again and again until told to stop.
    pub(crate) async fn run(mut self, mut identity: Identity, stop: CancellationToken) {
        loop {
            let Some(renewed) = stop.run_until_cancelled(self.renew_when_due(&identity)).await else {
                return;
            };
            match renewed {
                Ok(renewed) => identity = renewed,
                Err(error) => {
                    // Without a readable certificate there is nothing to time the renewal by.
                    tracing::error!(error = crate::error::chain(&error), "certificate renewal stopped");
                    return;
                }
            }
        }
    }

    async fn renew_when_due(&mut self, identity: &Identity) -> Result<Identity, IdentityError> {
        let validity = identity.validity()?;
        let jitter = rand::rng().random_range(-1.0..=1.0);
        sleep_until_due(validity, jitter, Utc::now).await;
        let mut backoff = retry_backoff(validity);
        let mut told = false;
        loop {
            let end = (validity.not_after - Utc::now()).to_std().unwrap_or_default();
            let channel = tokio::select! {
                biased;
                // An error means that the session is gone, and the agent with it.
                live = self.live.wait_for(Option::is_some) => live.ok().and_then(|channel| channel.clone()),
                () = tokio::time::sleep(end.min(LOOK_AT_CLOCK)), if !told => {
                    told = Utc::now() >= validity.not_after;
                    if told {
                        tracing::error!("{}", ran_out(validity, &identity.record.machine_name));
                    }
                    continue;
                }
            };
            let Some(channel) = channel else { std::future::pending().await };
            match self.renew(identity, channel).await {
                Ok(renewed) => return Ok(renewed),
                Err(error) => {
                    let (error, next) = (crate::error::chain(&error), error.action());
                    tracing::warn!(error, next, "the certificate was not renewed");
                }
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn renew(&self, identity: &Identity, channel: Channel) -> Result<Identity, RenewError> {
        let request = KeyRequest::generate()?;
        let call = RenewCertificateRequest { csr_der: request.csr_der };
        let answer = tokio::time::timeout(self.call_timeout, async {
            AgentServiceClient::new(channel).renew_certificate(call).await
        })
        .await
        .map_err(|_| RenewError::Timeout)?
        .map_err(|status| RenewError::Refused(Box::new(detail_of(&status))))?
        .into_inner();
        let renewed = Identity {
            record: AgentRecord { certified_at: Utc::now(), ..identity.record.clone() },
            key_pem: request.key_pem,
            chain_pem: answer.certificate_chain_pem,
            ca_pem: answer.ca_pem,
        };
        let validity = renewed.validity()?;
        // TLS first: what it cannot use must not replace a working identity on disk.
        ClientTls::new(&renewed)?;
        let (state, stored) = (Arc::clone(&self.state), renewed.clone());
        blocking(move || stored.store(&state)).await?;
        self.tls.rotate(&renewed)?;
        tracing::info!(not_after = %validity.not_after, "the certificate was renewed");
        Ok(renewed)
    }
}

/// Without a session there is no renewal, and from now on no session: TLS only says that the connection broke.
fn ran_out(validity: Validity, machine: &str) -> String {
    format!(
        "this machine's certificate ran out at {}: if its clock is right, an operator makes a token with \
         `holdfast token create --machine {machine}`, and `holdfast-agent enrol --force --name {machine}` uses it here",
        validity.not_after.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    )
}

async fn sleep_until_due(validity: Validity, jitter: f64, now: impl Fn() -> DateTime<Utc>) {
    loop {
        let left = renewal_delay(validity, now(), jitter);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AT_CLOCK)).await;
    }
}

/// How long to wait, from `now`, until a certificate is to be renewed. `jitter` is -1 to 1.
fn renewal_delay(validity: Validity, now: DateTime<Utc>, jitter: f64) -> Duration {
    let life = (validity.not_after - validity.not_before).to_std().unwrap_or_default();
    let part = RENEW_AT + RENEW_JITTER * jitter.clamp(-1.0, 1.0);
    let due = life.mul_f64(part);
    let age = (now - validity.not_before).to_std().unwrap_or_default();
    due.saturating_sub(age)
}

/// Tries at least some ten times before the certificate ends, but not more often than once a second.
fn retry_backoff(validity: Validity) -> Backoff {
    let life = (validity.not_after - validity.not_before).to_std().unwrap_or_default();
    let longest = (life / 50).clamp(Duration::from_secs(1), Duration::from_secs(600));
    Backoff::new(Duration::from_secs(1).min(longest), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validity() -> Validity {
        let not_before = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        Validity { not_before, not_after: not_before + chrono::TimeDelta::hours(100) }
    }

    fn hours(jitter: f64, age_hours: i64) -> f64 {
        let validity = validity();
        let now = validity.not_before + chrono::TimeDelta::hours(age_hours);
        renewal_delay(validity, now, jitter).as_secs_f64() / 3600.0
    }

    #[test]
    fn renews_at_seventy_percent_of_its_life_and_a_little_around_it() {
        assert!((hours(0.0, 0) - 70.0).abs() < 0.01);
        assert!((hours(1.0, 0) - 75.0).abs() < 0.01);
        assert!((hours(-1.0, 0) - 65.0).abs() < 0.01);
        assert!((hours(0.0, 50) - 20.0).abs() < 0.01);
    }

    #[test]
    fn renews_at_once_when_it_is_late_and_waits_when_the_clock_is_behind() {
        assert!(hours(0.0, 80).abs() < f64::EPSILON);
        assert!(hours(0.0, 200).abs() < f64::EPSILON);
        assert!((hours(0.0, -10) - 70.0).abs() < 0.01);
    }

    /// How long, by its own count, a machine sleeps until its certificate of 30 days is due. Its clock shows so many days after
    /// the certificate's begin.
    async fn slept(days: impl Fn(f64) -> f64) -> f64 {
        let not_before = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let validity = Validity { not_before, not_after: not_before + chrono::TimeDelta::days(30) };
        let began = tokio::time::Instant::now();
        let counted = || began.elapsed().as_secs_f64() / 86_400.0;
        let clock = || {
            let age = Duration::from_secs_f64(days(counted()).abs() * 86_400.0);
            let age = chrono::TimeDelta::from_std(age).unwrap();
            if days(counted()) < 0.0 { not_before - age } else { not_before + age }
        };
        sleep_until_due(validity, 0.0, clock).await;
        counted()
    }

    #[tokio::test(start_paused = true)]
    async fn renews_in_time_though_the_machine_was_suspended_or_its_clock_was_set() {
        let is_about = |slept: f64, days: f64| {
            assert!((days - 0.01..days + 0.05).contains(&slept), "{slept} for {days}")
        };
        is_about(slept(|counted| counted).await, 21.0);
        // After a day it is suspended for ten.
        is_about(slept(|counted| if counted < 1.0 { counted } else { counted + 10.0 }).await, 11.0);
        // It starts with a clock that is a year behind, which is set soon after.
        is_about(slept(|counted| if counted < 0.001 { -365.0 } else { 25.0 }).await, 0.0);
    }

    #[test]
    fn retries_often_enough_for_short_and_long_lives() {
        let mut backoff = retry_backoff(validity());
        for _ in 0..100 {
            assert!(backoff.next_wait() <= Duration::from_secs(600));
        }
    }
}

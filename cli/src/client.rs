use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::v1::job_service_client::JobServiceClient;
use holdfast_proto::v1::machine_service_client::MachineServiceClient;
use holdfast_proto::v1::point_service_client::PointServiceClient;
use holdfast_proto::v1::policy_service_client::PolicyServiceClient;
use holdfast_proto::v1::restore_service_client::RestoreServiceClient;
use holdfast_proto::v1::status_service_client::StatusServiceClient;
use holdfast_proto::v1::vault_service_client::VaultServiceClient;

use crate::error::{CliError, chain, is_away};
use crate::settings::Settings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For calls that answer once.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call that can be repeated safely is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// A call that is tried for longer says so.
const TELL_AFTER: Duration = Duration::from_secs(2);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

type Authenticated = InterceptedService<Channel, ApiKey>;

/// A connection to the controller, with the operator's key on every call.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    key: ApiKey,
}

#[derive(Clone)]
pub(crate) struct ApiKey(MetadataValue<Ascii>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Client {
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, CliError> {
        let bad = |what, detail: String| CliError::BadSetting { what, detail };
        let mut key: MetadataValue<Ascii> = format!("Bearer {}", settings.api_key)
            .parse()
            .map_err(|_| bad("the API key", "it holds characters that no key has".to_owned()))?;
        key.set_sensitive(true);
        // With http:// the key would go out in clear.
        if !settings.address.starts_with("https://") {
            return Err(bad("the address", format!("{:?} is not like https://HOST:PORT", settings.address)));
        }
        if !settings.ca_pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(bad("the CA certificate", "there is no PEM certificate in the file".to_owned()));
        }
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&settings.ca_pem));
        let endpoint = Endpoint::from_shared(settings.address.clone())
            .map_err(|error| bad("the address", error.to_string()))?
            .tls_config(tls)
            .map_err(|error| bad("the CA certificate", chain(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            // Restored data comes in fewer pieces than by HTTP/2's own limit of 16 KiB.
            .max_frame_size(256 << 10);
        let channel =
            endpoint.connect().await.map_err(|error| unreachable(&settings.address, &chain(&error)))?;
        Ok(Self { channel, key: ApiKey(key) })
    }

    pub(crate) fn machines(&self) -> MachineServiceClient<Authenticated> {
        MachineServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Authenticated> {
        JobServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }

    pub(crate) fn points(&self) -> PointServiceClient<Authenticated> {
        PointServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }

    pub(crate) fn policies(&self) -> PolicyServiceClient<Authenticated> {
        PolicyServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn status(&self) -> StatusServiceClient<Authenticated> {
        StatusServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }

    pub(crate) fn vault(&self) -> VaultServiceClient<Authenticated> {
        VaultServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }

    pub(crate) fn restores(&self) -> RestoreServiceClient<Authenticated> {
        RestoreServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// A request with the usual timeout.
pub(crate) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Calls again, after a growing wait, while the controller is away, such as for a restart. Only for calls that change
/// nothing, or that carry a request id.
pub(crate) async fn again<T, F>(mut call: impl FnMut() -> F) -> Result<T, CliError>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let start = Instant::now();
    let mut wait = FIRST_WAIT;
    let mut told = false;
    loop {
        match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if is_away(&status) && start.elapsed() < PATIENCE => {
                // Not of a restart that is over in a moment.
                if !told && start.elapsed() > TELL_AFTER {
                    told = true;
                    eprintln!("{}; trying again for up to {} s", CliError::from(status), PATIENCE.as_secs());
                }
            }
            Err(status) => return Err(status.into()),
        }
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The times in the detail are seconds since 1970, which say nothing to people.
fn unreachable_by_clock(address: &str, detail: &str) -> CliError {
    let kind = if detail.contains("not valid yet") { "is not valid yet" } else { "has expired" };
    CliError::Unreachable {
        address: address.to_owned(),
        detail: format!(
            "its certificate {kind} by the clock of this machine, which says {}",
            chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        ),
        action: "most likely the clock of this machine or the controller's is wrong: compare `date -u` on both, and set the wrong one"
            .to_owned(),
    }
}

fn unreachable(address: &str, detail: &str) -> CliError {
    let action = if detail.contains("UnknownIssuer") || detail.contains("BadSignature") {
        "HOLDFAST_CA_FILE is not the CA of this controller: copy its pki/ca.pem"
    } else if detail.contains("NotValidForName") || detail.contains("not valid for name") {
        "use a name that the controller was started with, or start it with --host NAME"
    } else if detail.contains("certificate not valid yet") || detail.contains("certificate expired") {
        // A running controller renews its certificate long before the end.
        return unreachable_by_clock(address, detail);
    } else {
        "check that the controller runs and that HOLDFAST_ADDRESS is its operators' address"
    };
    CliError::Unreachable {
        address: address.to_owned(),
        detail: detail.to_owned(),
        action: action.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_of_another_time_is_told_as_a_matter_of_clocks() {
        for (detail, word) in [
            (
                "invalid peer certificate: certificate not valid yet: verification time 1795837542 (UNIX), but …",
                "not valid yet",
            ),
            (
                "invalid peer certificate: certificate expired: verification time 1799311568 (UNIX), but …",
                "has expired",
            ),
        ] {
            let CliError::Unreachable { detail, action, .. } = unreachable("https://c:7444", detail) else {
                panic!("another error")
            };
            assert!(detail.contains(word) && !detail.contains("UNIX"), "{detail}");
            assert!(action.contains("clock"), "{action}");
        }
    }
}

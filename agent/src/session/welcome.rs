//! What a Welcome asks for, within its limits.

use std::time::Duration;

use holdfast_proto::v1::Welcome;

/// Limits of what a controller may ask for as heartbeat interval.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);

/// How often the controller wants to hear of this agent.
pub(super) fn heartbeat_interval(welcome: &Welcome) -> Duration {
    let asked = welcome.heartbeat_interval.as_ref().and_then(|interval| {
        // Not `try_from`: it says how negative an interval is, and there is one of which it cannot.
        let seconds = Duration::from_secs(u64::try_from(interval.seconds).ok()?);
        seconds.checked_add(Duration::from_nanos(u64::try_from(interval.nanos).ok()?))
    });
    asked.unwrap_or(DEFAULT_HEARTBEAT).clamp(*HEARTBEATS.start(), *HEARTBEATS.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_the_interval_keeps_its_limits() {
        let answer = |asked| heartbeat_interval(&Welcome { heartbeat_interval: asked, ..Welcome::default() });
        let asked = |seconds, nanos| answer(Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(asked(20, 500_000_000), Duration::from_millis(20_500));
        assert_eq!(asked(0, 1), *HEARTBEATS.start());
        assert_eq!(asked(301, 0), *HEARTBEATS.end());
        assert_eq!(asked(i64::MAX, i32::MAX), *HEARTBEATS.end());
        for (seconds, nanos) in [(-1, 0), (i64::MIN, 0), (i64::MIN, i32::MIN), (5, -1)] {
            assert_eq!(asked(seconds, nanos), DEFAULT_HEARTBEAT);
        }
        assert_eq!(answer(None), DEFAULT_HEARTBEAT);
    }
}

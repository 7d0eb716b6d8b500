//! Logs and metrics.

mod exporter;
mod requests;

use std::io::IsTerminal as _;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

pub(crate) use exporter::{Exporter, ExporterError};
pub(crate) use requests::CountRequests;

/// Which logs are written, in the syntax of `tracing_subscriber::EnvFilter`.
const FILTER_VARIABLE: &str = "HOLDFAST_LOG";
const DEFAULT_FILTER: &str = "info,sqlx=warn";

/// Sends logs to stderr. A filter that cannot be read is reported and replaced by the default one.
pub(crate) fn start_logs(format: LogFormat) {
    let wanted = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let (filter, problem) = match wanted.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
        None => (EnvFilter::new(DEFAULT_FILTER), None),
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    if let Err(error) = started {
        eprintln!("holdfast-controller: logs cannot be written: {error}");
    }
    if let Some(error) = problem {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "{FILTER_VARIABLE} cannot be read; using the default"
        );
    }
}

/// What every process tells about itself.
fn describe_process() {
    metrics::describe_gauge!("process_start_time_seconds", "When the process started, seconds since 1970.");
    metrics::describe_gauge!("holdfast_build_info", "Always 1; the label says which version runs.");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!("process_start_time_seconds").set(now.as_secs_f64());
    metrics::gauge!("holdfast_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::describe_counter!(
        "holdfast_requests_total",
        "Finished calls by listener, method and gRPC code."
    );
    metrics::describe_gauge!("holdfast_requests_in_flight", "Calls that are being served, streams included.");
    metrics::describe_gauge!("holdfast_connections", "Open connections by listener.");
    metrics::describe_counter!(
        "holdfast_connections_refused_total",
        "Connections beyond the listener's limit."
    );
    metrics::describe_counter!(
        "holdfast_handshakes_failed_total",
        "TLS handshakes that failed or took too long."
    );
}

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_gateway::Gateway;
use tonic::{Request, Response, Status as RpcStatus};

use holdfast_proto::v1::status_service_server::StatusService;
use holdfast_proto::v1::{GetStatusRequest, Status};

use crate::app::App;
use crate::domain::condition::{POINTS_DAMAGED, VERIFICATION_OVERDUE, protection};

use super::caller;

#[derive(Clone, Debug)]
pub(crate) struct StatusApi {
    pub(crate) app: Arc<App>,
    pub(crate) gateway: Gateway,
}

#[tonic::async_trait]
impl StatusService for StatusApi {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<Status>, RpcStatus> {
        let GetStatusRequest {} = caller::reader(request)?;
        let row = self.app.store.status(self.app.timing.verify).await?;
        let (policies, now) = self.app.store.policies().await?;
        let fleet = self.app.store.fleet().await?;
        let mut conditions: HashMap<String, i64> = HashMap::new();
        for condition in fleet.iter().flat_map(|row| protection(&row.view(), &policies, now).conditions) {
            *conditions.entry(condition.code.to_owned()).or_default() += 1;
        }
        if row.machines_damaged > 0 {
            conditions.insert(POINTS_DAMAGED.to_owned(), row.machines_damaged);
        }
        if row.machines_unverified > 0 {
            conditions.insert(VERIFICATION_OVERDUE.to_owned(), row.machines_unverified);
        }
        let vault_error = self.gateway.vault_error().await;
        // A file system that hangs keeps a thread for each question.
        let vault_free_bytes = match &vault_error {
            None => self.gateway.vault_free_bytes().await,
            Some(_) => None,
        };
        Ok(Response::new(Status {
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
            vault_id: self.app.vault_id.to_string(),
            machines_online: row.machines_online,
            machines_offline: row.machines_offline,
            machines_quarantined: row.machines_quarantined,
            jobs_queued: row.jobs_queued,
            jobs_running: row.jobs_running,
            jobs_failed_recently: row.jobs_failed_recently,
            points: row.points,
            stored_bytes: u64::try_from(row.stored_bytes).unwrap_or(0),
            policies: i64::try_from(policies.len()).unwrap_or(i64::MAX),
            conditions,
            vault_error,
            vault_free_bytes,
        }))
    }
}

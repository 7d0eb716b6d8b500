use chrono::{DateTime, Utc};
use serde::Deserialize as _;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::domain::policy::{Policies, Policy, PolicyDocument, Target, UnreadablePolicy, etag, target_of};

use super::page::{Page, PageSize, Sorted};
use super::{During, Store, StoreError, audit};

#[derive(sqlx::FromRow)]
struct PolicyRow {
    id: Uuid,
    name: String,
    spec: Json<serde_json::Value>,
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    wanted_since: DateTime<Utc>,
    evaluated_until: DateTime<Utc>,
}

/// By name: what is prepared goes on when a newer controller adds a column.
macro_rules! policies {
    () => {
        "SELECT id, name, spec, revision, created_at, updated_at, wanted_since, evaluated_until FROM policies"
    };
}

/// A policy to create or to change. Its document was checked.
#[derive(Clone, Debug)]
pub(crate) struct NewPolicy {
    pub(crate) name: String,
    pub(crate) document: PolicyDocument,
    /// The etag that the current one must have.
    pub(crate) etag: Option<String>,
    pub(crate) operator: String,
}

/// What applying a policy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Created,
    Updated,
    Unchanged,
}

impl Sorted for Policy {
    fn sort_key(&self) -> String {
        self.name.clone()
    }
}

impl Sorted for PolicyRow {
    fn sort_key(&self) -> String {
        self.name.clone()
    }
}

impl Store {
    /// Creates or changes a policy.
    pub(crate) async fn apply_policy(&self, new: NewPolicy) -> Result<Applied, StoreError> {
        self.transaction("apply a policy", move |connection| Box::pin(apply(connection, new))).await
    }

    pub(crate) async fn find_policy(&self, name: &str) -> Result<Policy, StoreError> {
        let row: Option<PolicyRow> = sqlx::query_as(concat!(policies!(), " WHERE name = $1"))
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .during("find a policy")?;
        row.ok_or_else(|| not_found(name))?.checked()
    }

    /// Lists policies by name, after the name `after`; apart from them the names of those that this version cannot read.
    pub(crate) async fn list_policies(
        &self,
        after: Option<&str>,
        size: PageSize,
    ) -> Result<(Page<Policy>, Vec<String>), StoreError> {
        let rows: Vec<PolicyRow> =
            sqlx::query_as(concat!(policies!(), " WHERE name > $1 ORDER BY name LIMIT $2"))
                .bind(after.unwrap_or(""))
                .bind(size.limit())
                .fetch_all(&self.pool)
                .await
                .during("list policies")?;
        let Page { rows, next } = size.page(rows);
        let (mut policies, mut unreadable) = (Vec::new(), Vec::new());
        for row in rows {
            let name = row.name.clone();
            match row.checked() {
                Ok(policy) => policies.push(policy),
                Err(_) => unreadable.push(name),
            }
        }
        Ok((Page { rows: policies, next }, unreadable))
    }

    /// The policies that can be read, and the database's time: to show, not to act on.
    pub(crate) async fn policies(&self) -> Result<(Vec<Policy>, DateTime<Utc>), StoreError> {
        let Policies { readable, now, .. } = self.all_policies().await?;
        Ok((readable, now))
    }

    /// All policies. One that this version cannot read is logged: it must not keep the others from running, nor may they take its
    /// machines.
    pub(crate) async fn all_policies(&self) -> Result<Policies, StoreError> {
        let rows: Vec<PolicyRow> = sqlx::query_as(concat!(policies!(), " ORDER BY name"))
            .fetch_all(&self.pool)
            .await
            .during("read the policies")?;
        let (now,): (DateTime<Utc>,) =
            sqlx::query_as("SELECT clock_timestamp()").fetch_one(&self.pool).await.during("read the time")?;
        let mut policies = Policies { readable: Vec::new(), unreadable: Vec::new(), now };
        for row in rows {
            let (name, target) = (row.name.clone(), target_of(&row.spec.0));
            match row.checked() {
                Ok(policy) => policies.readable.push(policy),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a policy cannot be read: it protects nothing"
                    );
                    policies.unreadable.push(UnreadablePolicy { name, target });
                }
            }
        }
        Ok(policies)
    }

    pub(crate) async fn delete_policy(
        &self,
        name: &str,
        etag: Option<String>,
        operator: &str,
    ) -> Result<(), StoreError> {
        let (name, operator) = (name.to_owned(), operator.to_owned());
        self.transaction("delete a policy", move |connection| {
            Box::pin(async move {
                // Not checked: one that this version cannot read can still be deleted.
                let current = lock(connection, &name).await?.ok_or_else(|| not_found(&name))?;
                check_etag(Some(&current), &name, etag.as_deref())?;
                sqlx::query("DELETE FROM policies WHERE id = $1")
                    .bind(current.id)
                    .execute(&mut *connection)
                    .await
                    .during("delete a policy")?;
                let detail = json!({ "name": name, "spec": current.spec.0 });
                audit::record(connection, &operator, "policy.delete", &current.id.to_string(), detail).await
            })
        })
        .await
    }
}

async fn apply(connection: &mut PgConnection, new: NewPolicy) -> Result<Applied, StoreError> {
    let current = lock(connection, &new.name).await?;
    // Whatever its etag: whoever repeats this, since the answer was lost, changed that by it.
    if current.as_ref().is_some_and(|current| current.says(&new.document)) {
        return Ok(Applied::Unchanged);
    }
    check_etag(current.as_ref(), &new.name, new.etag.as_deref())?;
    let Some(current) = current.map(PolicyRow::checked).transpose()? else {
        let id = Uuid::now_v7();
        let made = sqlx::query(
            "INSERT INTO policies (id, name, spec) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
        )
        .bind(id)
        .bind(&new.name)
        .bind(Json(&new.document))
        .execute(&mut *connection)
        .await
        .during("create a policy")?;
        if made.rows_affected() == 0 {
            return Err(StoreError::PolicyChanged { name: new.name });
        }
        let detail = json!({ "name": new.name, "spec": new.document });
        audit::record(connection, &new.operator, "policy.create", &id.to_string(), detail).await?;
        return Ok(Applied::Created);
    };
    // Slots of the past are no business of another schedule, nor of other machines; but they stay those of this one.
    sqlx::query(
        "UPDATE policies SET spec = $2, revision = revision + 1, updated_at = now(),
             wanted_since = CASE WHEN $3 THEN wanted_since ELSE now() END,
             evaluated_until = CASE WHEN $3 THEN evaluated_until ELSE now() END
         WHERE id = $1",
    )
    .bind(current.id)
    .bind(Json(&new.document))
    .bind(current.document.wants_the_same_as(&new.document))
    .execute(&mut *connection)
    .await
    .during("change a policy")?;
    let detail = json!({ "name": new.name, "before": current.document, "after": new.document });
    audit::record(connection, &new.operator, "policy.update", &current.id.to_string(), detail).await?;
    Ok(Applied::Updated)
}

/// The targets of all policies, also of those of which nothing else can be read.
pub(super) async fn targets(connection: &mut PgConnection) -> Result<Vec<Target>, StoreError> {
    let specs: Vec<(Json<serde_json::Value>,)> = sqlx::query_as("SELECT spec FROM policies")
        .fetch_all(connection)
        .await
        .during("read which machines policies are for")?;
    Ok(specs.iter().filter_map(|(Json(spec),)| target_of(spec)).collect())
}

/// The policy of this name, locked against other changes and against schedulers.
async fn lock(connection: &mut PgConnection, name: &str) -> Result<Option<PolicyRow>, StoreError> {
    sqlx::query_as(concat!(policies!(), " WHERE name = $1 FOR UPDATE"))
        .bind(name)
        .fetch_optional(connection)
        .await
        .during("lock a policy")
}

fn check_etag(current: Option<&PolicyRow>, name: &str, wanted: Option<&str>) -> Result<(), StoreError> {
    match (wanted, current) {
        (None, _) => Ok(()),
        (Some(wanted), Some(current)) if etag(current.id, current.revision) == wanted => Ok(()),
        (Some(_), _) => Err(StoreError::PolicyChanged { name: name.to_owned() }),
    }
}

fn not_found(name: &str) -> StoreError {
    StoreError::NotFound { noun: "policy", name: name.to_owned() }
}

impl PolicyRow {
    fn says(&self, document: &PolicyDocument) -> bool {
        PolicyDocument::deserialize(&self.spec.0).is_ok_and(|current| current == *document)
    }

    fn checked(self) -> Result<Policy, StoreError> {
        let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt {
            what: format!("policy {:?}: {error}", self.name),
        };
        let document: PolicyDocument =
            serde_json::from_value(self.spec.0).map_err(|error| corrupt(&error))?;
        let spec = document.check(&self.name).map_err(|error| corrupt(&error))?;
        Ok(Policy {
            id: self.id,
            name: self.name,
            revision: self.revision,
            created_at: self.created_at,
            updated_at: self.updated_at,
            wanted_since: self.wanted_since,
            evaluated_until: self.evaluated_until,
            document,
            spec,
        })
    }
}

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use uuid::Uuid;

use crate::Postgres;

/// A database of its own for one test.
#[derive(Debug)]
pub struct Database {
    url: String,
    name: String,
    /// URL of a database from which this one can be dropped.
    server: String,
}

impl Database {
    #[must_use]
    pub fn create(postgres: &Postgres) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let (head, options) = postgres.url().split_once('?').unwrap_or((postgres.url(), ""));
        let (head, _) = head.rsplit_once('/').unwrap();
        let url = format!("{head}/{name}?{options}");
        let server = postgres.url().to_owned();
        execute(&server, &format!("CREATE DATABASE {name}"));
        Self { url, name, server }
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The number that a statement gives.
    #[must_use]
    pub fn number(&self, sql: &str) -> i64 {
        self.rows(sql)[0].get(0)
    }

    /// The first column of all rows, which must be text.
    #[must_use]
    pub fn texts(&self, sql: &str) -> Vec<String> {
        self.rows(sql).iter().map(|row| row.get(0)).collect()
    }

    /// How many rows each table has: what changed nothing, changed none of them.
    #[must_use]
    pub fn row_counts(&self, tables: &[&str]) -> Vec<(String, i64)> {
        tables
            .iter()
            .map(|table| ((*table).to_owned(), self.number(&format!("SELECT count(*) FROM {table}"))))
            .collect()
    }

    /// Runs a statement.
    pub fn run(&self, sql: &str) {
        execute(&self.url, sql);
    }

    fn rows(&self, sql: &str) -> Vec<PgRow> {
        block_on(async {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await;
            rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            execute(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

fn execute(url: &str, sql: &str) {
    block_on(async {
        let mut connection = PgConnection::connect(url).await.unwrap();
        connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    });
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

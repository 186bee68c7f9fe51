//! A migrated database for each test, copied from a template: copying is faster than migrating again.

use std::{
    path::Path,
    sync::{OnceLock, mpsc},
};

use dca_core::{Clock, Db, Ids};
use futures::future::join_all;
use sea_orm_migration::sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use sha2::{Digest, Sha256};

use crate::{architecture::sources, support::fixtures::rows};

/// Databases of interrupted runs are dropped after this many seconds.
const MAX_AGE: i64 = 3_600;

/// Copies the SQLite template into a data directory.
pub fn copy_sqlite_template(data_dir: &Path) {
    static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", dir.path().join("dca.db").display());
        block_on(async {
            let db = Db::connect(&url, 1).await.unwrap();
            dca_auth::app::migrate(&db).await.unwrap();
            db.writer().execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
            db.close().await.unwrap();
        });
        dir
    });
    std::fs::copy(template.path().join("dca.db"), data_dir.join("dca.db")).unwrap();
}

/// A database of one test. Dropping it drops the database on a thread of its own, because that takes a while.
pub struct PostgresDatabase {
    server: String,
    name: String,
}

impl PostgresDatabase {
    /// Creates a database as a copy of the template.
    pub async fn create(server: &str) -> Self {
        static TEMPLATE: OnceLock<String> = OnceLock::new();
        let template = TEMPLATE.get_or_init(|| block_on(find_or_create_template(server)));
        // The time tells later runs which databases were left behind.
        let name = format!("dca_test_{}_{}", Clock::system().now().timestamp(), Ids::system().v4().simple());
        let admin = connect(server, 1).await;
        admin.execute_unprepared(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await.unwrap();
        // Tests kill the app, never the server, so commits need not wait for the disk.
        admin.execute_unprepared(&format!("ALTER DATABASE {name} SET synchronous_commit = off")).await.unwrap();
        admin.close().await.unwrap();
        Self { server: server.to_owned(), name }
    }

    /// The URL of the database.
    pub fn url(&self) -> String {
        url(&self.server, &self.name)
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        static DROPPING: OnceLock<mpsc::Sender<String>> = OnceLock::new();
        let names = DROPPING.get_or_init(|| {
            let (names, received) = mpsc::channel();
            let server = self.server.clone();
            std::thread::spawn(move || {
                runtime().block_on(drop_databases(&server, &received));
            });
            names
        });
        _ = names.send(self.name.clone());
    }
}

/// Drops databases of interrupted runs, then those whose names it receives. Drops that run at the same time share the
/// checkpoint that each of them waits for.
async fn drop_databases(server: &str, names: &mpsc::Receiver<String>) {
    let admin = connect(server, 8).await;
    let mut batch = stale_databases(&admin).await;
    loop {
        join_all(batch.iter().map(async |name| {
            // Not essential: a later run drops what remains.
            _ = admin.execute_unprepared(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }))
        .await;
        let Ok(next) = names.recv() else { return };
        batch = std::iter::once(next).chain(names.try_iter()).collect();
    }
}

/// The name of the migrated template database. It is named after the schema and shared by all runs; the lock keeps
/// concurrent runs from creating it twice.
async fn find_or_create_template(server: &str) -> String {
    let mut files = sources("migration/src");
    files.sort();
    let mut schema = Sha256::new();
    for file in files {
        schema.update(std::fs::read(file).unwrap());
    }
    let schema = u64::from_be_bytes(schema.finalize()[..8].try_into().unwrap());
    let name = format!("dca_template_{schema:x}");
    let admin = connect(server, 1).await;
    admin.execute_unprepared("SELECT pg_advisory_lock(6021530451)").await.unwrap();
    if rows(&admin, &format!("SELECT 1 AS n FROM pg_database WHERE datname = '{name}'")).await.is_empty() {
        // Renamed when it is complete, so that an interrupted run leaves no incomplete template.
        admin.execute_unprepared("DROP DATABASE IF EXISTS dca_template_incomplete WITH (FORCE)").await.unwrap();
        admin.execute_unprepared("CREATE DATABASE dca_template_incomplete").await.unwrap();
        let db = Db::connect(&url(server, "dca_template_incomplete"), 1).await.unwrap();
        dca_auth::app::migrate(&db).await.unwrap();
        db.close().await.unwrap();
        admin.execute_unprepared(&format!("ALTER DATABASE dca_template_incomplete RENAME TO {name}")).await.unwrap();
    }
    admin.close().await.unwrap();
    name
}

/// The databases that interrupted runs left behind.
async fn stale_databases(admin: &DatabaseConnection) -> Vec<String> {
    let all = rows(admin, r"SELECT datname::text AS n FROM pg_database WHERE datname LIKE 'dca\_test\_%'").await;
    let names = all.iter().map(|row| row["n"].as_str().unwrap().to_owned());
    let created = |name: &String| name.split('_').nth(2)?.parse::<i64>().ok();
    names.filter(|name| created(name).is_some_and(|at| at < Clock::system().now().timestamp() - MAX_AGE)).collect()
}

/// The URL of another database of the server.
fn url(server: &str, database: &str) -> String {
    format!("{}/{database}", server.rsplit_once('/').unwrap().0)
}

/// With a single connection, a lock of the session applies to all statements.
async fn connect(server: &str, connections: u32) -> DatabaseConnection {
    let mut options = ConnectOptions::new(server);
    options.max_connections(connections).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

/// Runs on a thread of its own, because the caller may be in a runtime.
fn block_on<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| runtime().block_on(work)).join().unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

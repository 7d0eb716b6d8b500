//! A server that speaks S3, for vaults.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Process, program, skip, wait};

#[path = "../../vault/engine/tests/vault/support/bucket.rs"]
mod bucket;

use bucket::{Bucket, OBJECT_LOCK};

const BUCKET: &str = "holdfast";
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The server that `HOLDFAST_TEST_S3_ENDPOINT` names, as `tests/run` does, or a moto of the test's own.
#[derive(Debug)]
pub struct S3Server {
    endpoint: String,
    bucket: String,
    object_lock: ObjectLock,
    names: Names,
    _moto: Option<Process>,
    credentials: TempDir,
}

/// Whether vaults are made in a bucket with Object Lock, and have the server enforce locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectLock {
    Unused,
    Required,
}

/// Whether the server gives names out once, or the controllers' database has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    OfServer,
    OfDatabase,
}

impl S3Server {
    /// With a bucket of the test's own that has Object Lock; `None` as in [`Self::start`]. A vault is made with [`Self::init_options`].
    #[must_use]
    pub fn start_with_object_lock(test: &str) -> Option<Self> {
        let server = Self::start(test)?;
        let bucket = format!("holdfast-{}", uuid::Uuid::new_v4());
        let mut server = Self { bucket, object_lock: ObjectLock::Required, ..server };
        block_on(server.bucket().make(&[OBJECT_LOCK]));
        if block_on(server.bucket().takes_names_twice()) {
            server.names = Names::OfDatabase;
        }
        Some(server)
    }

    /// What `init` needs for a vault here.
    #[must_use]
    pub fn init_options(&self) -> &'static [&'static str] {
        match self.names {
            Names::OfServer => &[],
            Names::OfDatabase => &["--names-in-database"],
        }
    }

    /// `None` without one, said loudly; in CI that is a failure.
    #[must_use]
    pub fn start(test: &str) -> Option<Self> {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let credentials = credentials(given);
        if let Some(endpoint) = given("HOLDFAST_TEST_S3_ENDPOINT") {
            return Some(Self::in_shared_bucket(endpoint, None, credentials));
        }
        Self::own(test, "strict", credentials)
    }

    /// A moto of the test's own that lets a name be taken twice; `None` as in [`Self::start`].
    #[must_use]
    pub fn start_careless(test: &str) -> Option<Self> {
        Self::own(test, "twice", credentials(|_| None))
    }

    fn own(test: &str, kind: &str, credentials: TempDir) -> Option<Self> {
        let Some(mut moto) = moto(kind) else {
            skip(format_args!("{test} needs moto (pip install 'moto[server]')"));
            return None;
        };
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        moto.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let moto = Process::spawn("moto", moto, &credentials.path().join("moto.log"));
        let mut connection =
            wait::until("moto to listen", START_PATIENCE, || TcpStream::connect(address).ok());
        // It asks for no signature.
        write!(
            connection,
            "PUT /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(Self::in_shared_bucket(format!("http://{address}"), Some(moto), credentials))
    }

    fn in_shared_bucket(endpoint: String, moto: Option<Process>, credentials: TempDir) -> Self {
        let bucket = BUCKET.to_owned();
        let (object_lock, names) = (ObjectLock::Unused, Names::OfServer);
        Self { endpoint, bucket, object_lock, names, _moto: moto, credentials }
    }

    /// What somebody can do who has the bucket's key: of a place every version that the server lets go, for good, then hide the rest.
    /// Answers how many it refused to delete, and how many it deleted.
    #[must_use]
    pub fn ravage(&self, place: &str) -> (usize, usize) {
        let (bucket, prefix) = (self.bucket(), self.prefix(place));
        block_on(async {
            let mut deleted = 0;
            for version in bucket.versions(&prefix).await {
                match bucket.delete_version(&version).await {
                    204 => deleted += 1,
                    status => assert_eq!(status, 403, "{version:?}"),
                }
            }
            let left = bucket.versions(&prefix).await;
            for version in &left {
                bucket.hide(&version.key).await;
            }
            (left.len(), deleted)
        })
    }

    /// What an operator does then.
    pub fn remove_markers(&self, place: &str) {
        block_on(self.bucket().remove_markers(&self.prefix(place)));
    }

    fn bucket(&self) -> Bucket {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        let (id, secret) = (read(self.access_key_id_file()), read(self.secret_access_key_file()));
        Bucket::new(&self.endpoint, &self.bucket, &id, &secret)
    }

    fn prefix(&self, place: &str) -> String {
        place.strip_prefix(&format!("s3://{}/", self.bucket)).unwrap().to_owned()
    }

    /// A place in the bucket that nobody else uses.
    #[must_use]
    pub fn new_place(&self) -> String {
        format!("s3://{}/test-{}", self.bucket, uuid::Uuid::new_v4())
    }

    /// The table `[vault]` of a controller's configuration.
    #[must_use]
    pub fn vault_table(&self, place: &str) -> String {
        format!(
            "[vault]\nurl = {place:?}\nendpoint = {:?}\nallow_http = true\naccess_key_id_file = {:?}\n\
             secret_access_key_file = {:?}\nobject_lock = {}\n",
            self.endpoint,
            self.access_key_id_file(),
            self.secret_access_key_file(),
            self.object_lock == ObjectLock::Required,
        )
    }

    /// The same for `holdfast-vault`.
    #[must_use]
    pub fn tool_options(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            "--s3-allow-http".to_owned(),
            "--s3-endpoint".to_owned(),
            self.endpoint.clone(),
            "--s3-access-key-id-file".to_owned(),
            text(self.access_key_id_file()),
            "--s3-secret-access-key-file".to_owned(),
            text(self.secret_access_key_file()),
        ]
    }

    /// The endpoint, as Amazon's tools take it from the environment.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("AWS_ENDPOINT_URL", self.endpoint.clone()), ("AWS_ALLOW_HTTP", "true".to_owned())]
    }

    /// The bucket's key, as Amazon's tools take it from the environment.
    #[must_use]
    pub fn key_variables(&self) -> [(&'static str, String); 2] {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        [
            ("AWS_ACCESS_KEY_ID", read(self.access_key_id_file())),
            ("AWS_SECRET_ACCESS_KEY", read(self.secret_access_key_file())),
        ]
    }

    fn access_key_id_file(&self) -> PathBuf {
        self.credentials.path().join("id")
    }

    fn secret_access_key_file(&self) -> PathBuf {
        self.credentials.path().join("secret")
    }
}

fn credentials(given: impl Fn(&str) -> Option<String>) -> TempDir {
    let credentials = tempfile::Builder::new().prefix("hf-s3-").tempdir().unwrap();
    for (file, variable) in
        [("id", "HOLDFAST_TEST_S3_ACCESS_KEY_ID"), ("secret", "HOLDFAST_TEST_S3_SECRET_ACCESS_KEY")]
    {
        let path = credentials.path().join(file);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.unwrap().write_all(given(variable).as_deref().unwrap_or("test").as_bytes()).unwrap();
    }
    credentials
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// `kind`: as `tests/s3/moto` has them.
fn moto(kind: &str) -> Option<Command> {
    let path = std::env::var_os("PATH")?;
    let python = std::env::split_paths(&path).map(|dir| dir.join("python3")).find(|file| file.is_file())?;
    if !has_moto(&python) {
        return None;
    }
    let mut command = Command::new(python);
    command.arg(program::repository().join("tests/s3/moto")).arg(kind);
    Some(command)
}

fn has_moto(python: &Path) -> bool {
    let found = Command::new(python)
        .args(["-c", "import moto.server"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

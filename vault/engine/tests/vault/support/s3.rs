//! A server that speaks S3, and vaults in it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_vault_engine::{KeyFile, S3, S3Credentials, S3Transport, Storage, Vault};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use tempfile::TempDir;
use uuid::Uuid;

use super::skip::skip;

const BUCKET: &str = "holdfast";
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The server that `HOLDFAST_TEST_S3_ENDPOINT` names, as `tests/run` does, or a moto of the test's own.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) endpoint: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
    moto: Option<Child>,
    dir: TempDir,
}

impl Server {
    /// `None` if there is none: the test is skipped, in CI it fails.
    pub(crate) fn start() -> Option<Self> {
        let Ok(endpoint) = std::env::var("HOLDFAST_TEST_S3_ENDPOINT") else { return Self::own(&[]) };
        let given = |name: &str| std::env::var(name).unwrap_or_else(|_| "test".to_owned());
        Some(Self {
            endpoint,
            access_key_id: given("HOLDFAST_TEST_S3_ACCESS_KEY_ID"),
            secret_access_key: given("HOLDFAST_TEST_S3_SECRET_ACCESS_KEY"),
            moto: None,
            dir: tempfile::tempdir().unwrap(),
        })
    }

    /// A moto of the test's own; `options` such as a certificate.
    pub(crate) fn own(options: &[&str]) -> Option<Self> {
        let Some(command) = moto() else {
            missing();
            return None;
        };
        Some(Self::of(command, options))
    }

    /// Of this command, which takes the options of moto's.
    pub(crate) fn of(command: Command, options: &[&str]) -> Self {
        let mut command = ending_with_us(command);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let child = command
            .args(["-H", &ip, "-p", &port])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let tls = !options.is_empty();
        let server = Self {
            endpoint: format!("http{}://{address}", if tls { "s" } else { "" }),
            access_key_id: "test".to_owned(),
            secret_access_key: "test".to_owned(),
            moto: Some(child),
            dir: tempfile::tempdir().unwrap(),
        };
        wait_for(address);
        if !tls {
            make_bucket(address, BUCKET);
        }
        server
    }

    /// A place of its own in the bucket, which nobody else uses.
    pub(crate) fn place(&self) -> S3 {
        self.at(&format!("s3://{BUCKET}/test-{}", Uuid::new_v4()))
    }

    pub(crate) fn at(&self, url: &str) -> S3 {
        S3 {
            endpoint: Some(self.endpoint.clone()),
            transport: S3Transport::PlainAllowed,
            credentials: self.credentials(&self.access_key_id, &self.secret_access_key),
            ..S3::at(url.parse().unwrap())
        }
    }

    pub(crate) fn credentials(&self, id: &str, secret: &str) -> S3Credentials {
        let file = |content: &str| {
            let path = self.dir.path().join(Uuid::new_v4().to_string());
            write_private(&path, content);
            path
        };
        S3Credentials::Files { access_key_id: file(id), secret_access_key: file(secret) }
    }

    /// The bucket, past the engine.
    pub(crate) fn bucket(&self) -> impl ObjectStore {
        AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_bucket_name(BUCKET)
            .with_access_key_id(&self.access_key_id)
            .with_secret_access_key(&self.secret_access_key)
            .build()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(moto) = &mut self.moto {
            let _ = moto.kill();
            let _ = moto.wait();
        }
    }
}

/// Folder of the Ceph that is the server, if `tests/s3/ceph` started it.
pub(crate) fn ceph() -> Option<PathBuf> {
    std::env::var_os("HOLDFAST_TEST_CEPH").map(PathBuf::from)
}

/// A vault in S3 with its key.
#[derive(Debug)]
pub(crate) struct S3Vault {
    pub(crate) vault: Vault,
    pub(crate) place: S3,
    pub(crate) key: KeyFile,
    _dir: TempDir,
}

impl S3Vault {
    pub(crate) async fn new(place: S3) -> Self {
        let (dir, key) = new_key();
        let vault = Vault::create(Storage::s3(&place).unwrap(), &key).await.unwrap();
        Self { vault, place, key, _dir: dir }
    }

    /// As another gateway would: nothing cached, connections of its own.
    pub(crate) async fn reopen(&self) -> Vault {
        Vault::open(Storage::s3(&self.place).unwrap(), &self.key).await.unwrap()
    }

    /// Name of an object in the bucket.
    pub(crate) fn name(&self, object: &str) -> object_store::path::Path {
        let location = self.place.location.to_string();
        let prefix = location.trim_start_matches("s3://").split_once('/').unwrap().1;
        format!("{prefix}/{object}").into()
    }
}

pub(crate) fn new_key() -> (TempDir, KeyFile) {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(&dir.path().join("vault.key")).unwrap();
    (dir, key)
}

pub(crate) fn write_private(path: &Path, content: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.unwrap().write_all(content.as_bytes()).unwrap();
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Ends with the thread that starts it, should that be killed.
fn ending_with_us(command: Command) -> Command {
    let Some(setpriv) = in_path("setpriv") else { return command };
    let mut ending = Command::new(setpriv);
    ending.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    ending
}

fn moto() -> Option<Command> {
    if let Some(server) = in_path("moto_server") {
        return Some(Command::new(server));
    }
    let mut command = Command::new(find_python()?);
    command.args(["-m", "moto.server"]);
    Some(command)
}

/// A Python that has moto; `None` without one, which is said.
pub(crate) fn python_with_moto() -> Option<PathBuf> {
    let python = find_python();
    if python.is_none() {
        missing();
    }
    python
}

fn find_python() -> Option<PathBuf> {
    let python = in_path("python3")?;
    let has_moto = Command::new(&python)
        .args(["-c", "import moto.server"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    has_moto.is_ok_and(|status| status.success()).then_some(python)
}

fn missing() {
    skip("moto is missing (pip install 'moto[server]'), so nothing was tried over the wire of S3");
}

fn wait_for(address: SocketAddr) {
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < START_PATIENCE, "moto did not start");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Moto asks for no signature.
fn make_bucket(address: SocketAddr, bucket: &str) {
    let mut connection = TcpStream::connect(address).unwrap();
    write!(
        connection,
        "PUT /{bucket} HTTP/1.1\r\nHost: s3.amazonaws.com\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

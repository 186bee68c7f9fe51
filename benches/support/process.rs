//! Servers in processes of their own, so that their CPU time can be read, and they can be stopped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::{BenchResult, load::Connection};

/// The binary of the service, in the same profile as this one.
pub const SERVICE: &str = env!("CARGO_BIN_EXE_dca-auth");

/// The unit of CPU times in `/proc`, in seconds, on every architecture.
const TICK: f64 = 0.01;

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A server, killed when dropped.
pub struct Server {
    child: Child,
    pub addr: SocketAddr,
    /// How long it took to accept requests.
    pub started_in: Duration,
}

impl Server {
    /// Starts `dca-auth serve` with only these settings, and waits until it is ready. Its log is written to `log`.
    pub async fn service(env: &BTreeMap<String, String>, log: &Path) -> BenchResult<Self> {
        let addr = free_address()?;
        let mut command = Command::new(SERVICE);
        command.env_clear().envs(env).env("DCA_HTTP_ADDR", addr.to_string());
        Self::start(command.stderr(File::create(log)?), addr, Some("/ready")).await
    }

    /// Starts this binary as a bare axum server that returns the body of each POST.
    pub async fn echo() -> BenchResult<Self> {
        let addr = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        Self::start(command.arg("echo").arg(addr.to_string()), addr, None).await
    }

    /// Starts a Redis server that stores nothing on disk.
    pub async fn redis() -> BenchResult<Self> {
        let addr = free_address()?;
        let port = addr.port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
        Self::start(command.stdout(Stdio::null()), addr, None).await
    }

    /// Starts a command that listens on `addr`; with `probe`, a path that has to be answered with 200.
    pub async fn start(command: &mut Command, addr: SocketAddr, probe: Option<&str>) -> BenchResult<Self> {
        let start = Instant::now();
        let mut server = Self { child: command.spawn()?, addr, started_in: Duration::ZERO };
        while !is_ready(addr, probe).await {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{command:?} ended with {status}").into());
            }
            if start.elapsed() > START_LIMIT {
                return Err(format!("{command:?} did not start in time").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.started_in = start.elapsed();
        Ok(server)
    }

    /// The CPU time that its process has used, in seconds.
    pub fn cpu(&self) -> f64 {
        cpu_of(self.child.id()).unwrap_or_default()
    }

    /// Its resident memory, in MiB.
    pub fn resident_mib(&self) -> BenchResult<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Sends it a signal, such as `STOP`.
    pub fn signal(&self, name: &str) -> BenchResult<()> {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        if sent.success() { Ok(()) } else { Err(format!("kill -{name} failed").into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The CPU time of the PostgreSQL processes that serve a database, in seconds.
pub fn postgres_cpu(database: &str) -> f64 {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let title = fs::read(entry.path().join("cmdline")).ok()?;
        let title = String::from_utf8_lossy(&title);
        let serves = title.starts_with("postgres: ") && title.split(' ').any(|word| word == database);
        entry.file_name().to_str()?.parse().ok().filter(|_| serves)
    });
    pids.filter_map(cpu_of).sum()
}

fn cpu_of(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain spaces. User and system time are the fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * f64::from(ticks()? + ticks()?))
}

async fn is_ready(addr: SocketAddr, probe: Option<&str>) -> bool {
    let Some(path) = probe else { return TcpStream::connect(addr).await.is_ok() };
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    let answer = async { Connection::open(addr).await?.send(request.as_bytes()).await.map(|answer| answer.status) };
    answer.await.is_ok_and(|status| status == 200)
}

/// An address that nobody listens on.
pub fn free_address() -> BenchResult<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

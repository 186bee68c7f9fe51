//! Load over HTTP. What it costs is not counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{BenchResult, seed::Seeded, stats::Random};

/// A connection that is kept open.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// An answer, until the next request.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    pub fn is_valid(&self) -> bool {
        self.status == 200 && self.body.starts_with(br#"{"valid":true"#)
    }

    /// An error, for answers that were not expected.
    pub fn unexpected<T>(&self) -> BenchResult<T> {
        Err(format!("status {}: {}", self.status, String::from_utf8_lossy(self.body)).into())
    }
}

impl Connection {
    pub async fn open(addr: SocketAddr) -> BenchResult<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(4_096) })
    }

    /// Sends a request and reads its answer.
    pub async fn send(&mut self, request: &[u8]) -> BenchResult<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err("the server closed the connection".into());
            }
            let Some(head) = self.received.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&self.received[..head])?;
            let length = text.lines().filter_map(|line| line.split_once(": "));
            let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = length.next().map_or("0", |(_, value)| value).parse()?;
            if self.received.len() >= head + 4 + length {
                let status = text.split(' ').nth(1).ok_or("the answer has no status")?.parse()?;
                return Ok(Answer { status, body: &self.received[head + 4..] });
            }
        }
    }
}

/// Whether it is the verdict that the key is valid.
pub fn is_valid(answer: &Answer<'_>) -> bool {
    answer.is_valid()
}

/// A POST of JSON.
pub fn post(path: &str, api_key: Option<&str>, body: &str) -> Vec<u8> {
    let api_key = api_key.map(|key| format!("X-API-Key: {key}\r\n")).unwrap_or_default();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{api_key}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Which answers are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Without a proof.
    Off,
    /// With one that repeats a nonce, which is another in each request.
    Fresh,
}

/// How often each key is used.
#[derive(Clone)]
pub enum Popularity {
    /// Equally often.
    Uniform,
    /// By Zipf's law: the n-th as often as 1/n. Holds the sums.
    Zipf(Arc<[f64]>),
}

impl Popularity {
    pub fn zipf(keys: usize) -> Self {
        let weights = (1..=keys).map(|rank| 1.0 / f64::from(u32::try_from(rank).unwrap_or(u32::MAX)));
        Self::Zipf(
            weights
                .scan(0.0, |sum, weight| {
                    *sum += weight;
                    Some(*sum)
                })
                .collect(),
        )
    }

    fn pick(&self, keys: usize, random: &mut Random) -> usize {
        match self {
            Self::Uniform => random.below(keys),
            Self::Zipf(sums) => {
                let point = random.fraction() * sums.last().copied().unwrap_or_default();
                sums.partition_point(|sum| *sum < point).min(keys - 1)
            }
        }
    }
}

/// Validations of random keys.
#[derive(Clone)]
pub struct Validations {
    pub seeded: Arc<Seeded>,
    pub popularity: Popularity,
    pub proof: Proof,
    /// Whether the device is named too.
    pub device: Device,
}

/// Whether requests name a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    None,
    Named,
}

impl Validations {
    /// A request for a random key.
    pub fn random(&self, random: &mut Random) -> Vec<u8> {
        self.of(self.popularity.pick(self.seeded.keys.len(), random), random)
    }

    /// A request for one key.
    pub fn of(&self, index: usize, random: &mut Random) -> Vec<u8> {
        let Seeded { keys, api_key, fingerprint, .. } = &*self.seeded;
        let proof = match self.proof {
            Proof::Off => r#""proof":false"#.to_owned(),
            Proof::Fresh => format!(r#""nonce":"{:021}A""#, random.number()),
        };
        let device = match self.device {
            Device::None => String::new(),
            Device::Named => format!(r#","device":{{"fingerprint":"{fingerprint}"}}"#),
        };
        let body = format!(r#"{{"licenseKey":"{}",{proof}{device}}}"#, keys[index]);
        post("/licenses/validate", Some(api_key), &body)
    }
}

/// Validates every key once.
pub async fn warm_up(addr: SocketAddr, validations: &Validations, connections: usize) -> BenchResult<()> {
    let mut tasks = JoinSet::new();
    for first in 0..connections {
        let validations = validations.clone();
        tasks.spawn(async move {
            let (mut connection, mut random) = (Connection::open(addr).await?, Random::new(first));
            for index in (first..validations.seeded.keys.len()).step_by(connections) {
                let answer = connection.send(&validations.of(index, &mut random)).await?;
                if !answer.is_valid() {
                    return answer.unexpected();
                }
            }
            BenchResult::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Sends requests as fast as they are answered, for `duration`; returns how many were.
pub async fn closed_loop(
    addr: SocketAddr,
    validations: &Validations,
    connections: usize,
    duration: Duration,
    expected: fn(&Answer<'_>) -> bool,
) -> BenchResult<u64> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for seed in 0..connections {
        let validations = validations.clone();
        tasks.spawn(async move {
            let (mut connection, mut random, mut answered) = (Connection::open(addr).await?, Random::new(seed), 0);
            while start.elapsed() < duration {
                let answer = connection.send(&validations.random(&mut random)).await?;
                if !expected(&answer) {
                    return answer.unexpected();
                }
                answered += 1;
            }
            BenchResult::Ok(answered)
        });
    }
    let mut total = 0;
    while let Some(answered) = tasks.join_next().await {
        total += answered??;
    }
    Ok(total)
}

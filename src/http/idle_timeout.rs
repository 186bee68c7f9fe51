//! Closes connections that are idle: those on which no request arrives in time, and those whose client does not read
//! the response. How long a request may take is limited by the router.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::{io, time::Duration};

use axum::http::{Request, Version};
use futures::{FutureExt, future::BoxFuture};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;

/// The longest that a client may take to read a part of the response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a connection without a request is kept open.
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    /// While the head of a request arrives, and what precedes the first one: TLS handshake and HTTP/2 preface.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) keep_alive: Duration,
}

/// What a connection does, shared by its stream and its service.
pub(super) struct Activity {
    timeouts: Timeouts,
    phase: Mutex<Phase>,
}

struct Phase {
    /// The number of requests being handled; several with HTTP/2.
    requests: usize,
    /// When the connection is closed if there is no request by then.
    deadline: Instant,
    /// Whether the next bytes start the head of a request (HTTP/1).
    is_before_head: bool,
    /// The task that reads, which the end of the last request wakes.
    reader: Option<Waker>,
}

impl Activity {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        let deadline = Instant::now() + timeouts.head;
        Self { timeouts, phase: Mutex::new(Phase { requests: 0, deadline, is_before_head: false, reader: None }) }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the connection is closed, unless it has requests. The end of the last one wakes the task.
    fn poll_deadline(&self, cx: &Context<'_>) -> Poll<Instant> {
        let mut phase = self.phase();
        if phase.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            phase.reader = Some(cx.waker().clone());
        }
        if phase.requests == 0 { Poll::Ready(phase.deadline) } else { Poll::Pending }
    }

    fn bytes_received(&self) {
        let mut phase = self.phase();
        if phase.requests == 0 && std::mem::take(&mut phase.is_before_head) {
            phase.deadline = phase.deadline.min(Instant::now() + self.timeouts.head);
        }
    }

    /// A response that is still being sent keeps the connection open (HTTP/1).
    fn bytes_sent(&self) {
        let mut phase = self.phase();
        if phase.requests == 0 && phase.is_before_head {
            phase.deadline = Instant::now() + self.timeouts.keep_alive;
        }
    }

    fn request_started(self: &Arc<Self>, version: Version) -> ActiveRequest {
        self.phase().requests += 1;
        ActiveRequest { activity: Arc::clone(self), version }
    }
}

/// A request being handled, until it is dropped.
struct ActiveRequest {
    activity: Arc<Activity>,
    version: Version,
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let mut phase = self.activity.phase();
        phase.requests -= 1;
        phase.deadline = Instant::now() + self.activity.timeouts.keep_alive;
        phase.is_before_head = self.version < Version::HTTP_2;
        let reader = phase.reader.take().filter(|_| phase.requests == 0);
        drop(phase);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// A stream whose reads fail once the connection has been idle for too long. Holds `_guard` while it is open.
pub(super) struct TimedStream<I, G> {
    stream: Pin<Box<TimeoutStream<I>>>,
    timer: Pin<Box<Sleep>>,
    activity: Arc<Activity>,
    _guard: G,
}

impl<I: AsyncRead + AsyncWrite, G> TimedStream<I, G> {
    pub(super) fn new(stream: I, activity: Arc<Activity>, guard: G) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let timer = Box::pin(sleep_until(activity.phase().deadline));
        Self { stream: Box::pin(stream), timer, activity, _guard: guard }
    }
}

impl<I: AsyncRead + AsyncWrite, G: Unpin> AsyncRead for TimedStream<I, G> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(read) = self.stream.as_mut().poll_read(cx, buf) {
            if buf.filled().len() > before {
                self.activity.bytes_received();
            }
            return Poll::Ready(read);
        }
        let deadline = ready!(self.activity.poll_deadline(cx));
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        // Requests move the deadline on; the timer follows when it fires, which is cheaper.
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= deadline {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl<I: AsyncRead + AsyncWrite, G: Unpin> AsyncWrite for TimedStream<I, G> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.bytes_sent();
        self.stream.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.bytes_sent();
        self.stream.as_mut().poll_write_vectored(cx, bufs)
    }
}

/// The service of a connection, which tells the stream about requests.
#[derive(Clone)]
pub(super) struct ActiveService<S> {
    service: S,
    activity: Arc<Activity>,
}

impl<S> ActiveService<S> {
    pub(super) fn new(service: S, activity: Arc<Activity>) -> Self {
        Self { service, activity }
    }
}

impl<S, B> Service<Request<B>> for ActiveService<S>
where
    S: Service<Request<B>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let active = self.activity.request_started(request.version());
        let response = self.service.call(request);
        async move {
            let _active = active;
            response.await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::{server::conn::auto::Builder, service::TowerToHyperService};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { head: Duration::from_millis(300), keep_alive: Duration::from_secs(2) };
    const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// The client's end of a connection that is served like those of the listener.
    fn connect() -> DuplexStream {
        let (client, server) = duplex(4096);
        let activity = Arc::new(Activity::new(TIMEOUTS));
        let router = axum::Router::new().route("/", axum::routing::get(answer));
        let service = TowerToHyperService::new(ActiveService::new(router, activity.clone()));
        let stream = TokioIo::new(TimedStream::new(server, activity, ()));
        tokio::spawn(async move {
            let mut builder = Builder::new(TokioExecutor::new());
            crate::http::limit_request_heads(&mut builder);
            _ = builder.serve_connection(stream, service).await;
        });
        client
    }

    /// Waits once, as a handler that asks a database does.
    async fn answer() -> &'static str {
        tokio::task::yield_now().await;
        "ok"
    }

    /// How long the server keeps a connection open on which it has nothing to answer.
    async fn kept_open(client: &mut (impl AsyncRead + Unpin)) -> Duration {
        let started = Instant::now();
        _ = client.read_to_end(&mut Vec::new()).await;
        started.elapsed()
    }

    #[tokio::test]
    async fn a_connection_without_a_complete_head_is_closed_whatever_the_protocol_and_the_progress() {
        for sent in [&b""[..], b"GET / HT", &HTTP2_PREFACE[..9], HTTP2_PREFACE] {
            let mut client = connect();
            client.write_all(sent).await.unwrap();
            let elapsed = kept_open(&mut client).await;
            assert!(elapsed < TIMEOUTS.keep_alive / 2, "{sent:?}: {elapsed:?}");
        }
        let (mut reader, mut writer) = tokio::io::split(connect());
        let slow = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TIMEOUTS.head / 3);
            for byte in HTTP2_PREFACE {
                ticks.tick().await;
                _ = writer.write_all(&[*byte]).await;
            }
        });
        assert!(kept_open(&mut reader).await < TIMEOUTS.head * 4, "a byte at a time");
        slow.abort();
    }

    #[tokio::test]
    async fn a_connection_is_kept_between_requests_but_not_after_half_a_head() {
        const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut client = connect();
        for _ in 0..2 {
            client.write_all(REQUEST).await.unwrap();
            let mut head = [0; 15];
            client.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
            let closed = tokio::time::timeout(TIMEOUTS.head * 3, kept_open(&mut client)).await;
            assert!(closed.is_err(), "closed after {closed:?}");
        }
        let mut half = connect();
        half.write_all(REQUEST).await.unwrap();
        half.read_exact(&mut [0; 15]).await.unwrap();
        half.write_all(&REQUEST[..5]).await.unwrap();
        assert!(kept_open(&mut half).await < TIMEOUTS.keep_alive / 2);
        assert!(kept_open(&mut client).await < TIMEOUTS.keep_alive);
    }
}

//! Closes idle connections in any state: before the first byte, between requests, or while the client does not
//! read the response.

use std::{future::Ready, io, pin::Pin, time::Duration};

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_io_timeout::TimeoutStream;

/// Longer than any request may take, so that only idle connections are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(40);

/// An acceptor that adds read and write timeouts to streams.
#[derive(Clone, Debug)]
pub(super) struct IdleTimeout;

impl<I: AsyncRead + AsyncWrite, S> Accept<I, S> for IdleTimeout {
    type Stream = Pin<Box<TimeoutStream<I>>>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let mut stream = TimeoutStream::new(stream);
        stream.set_read_timeout(Some(IDLE_TIMEOUT));
        stream.set_write_timeout(Some(IDLE_TIMEOUT));
        std::future::ready(Ok((Box::pin(stream), service)))
    }
}

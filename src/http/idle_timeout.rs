//! Connections that fall silent are closed, in whatever state they are: before the first byte, between
//! requests, or while they do not read what was asked for.

use std::{future::Ready, io, pin::Pin, time::Duration};

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_io_timeout::TimeoutStream;

/// Longer than any request may take, so that only silence ends a connection.
const SILENCE: Duration = Duration::from_secs(40);

/// Accepts streams that do not wait for ever.
#[derive(Clone, Debug)]
pub(super) struct IdleTimeout;

impl<I: AsyncRead + AsyncWrite, S> Accept<I, S> for IdleTimeout {
    type Stream = Pin<Box<TimeoutStream<I>>>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let mut stream = TimeoutStream::new(stream);
        stream.set_read_timeout(Some(SILENCE));
        stream.set_write_timeout(Some(SILENCE));
        std::future::ready(Ok((Box::pin(stream), service)))
    }
}

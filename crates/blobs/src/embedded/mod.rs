//! The S3-compatible server of `tunesmith up`: one bucket in one folder, on loopback, for one key pair.
//!
//! `s3s` speaks the protocol (signatures, presigned addresses, chunked bodies, XML); `service` answers the calls
//! that our client makes and refuses all others; `folder` keeps the bytes. A key is admitted only where it parses
//! as a [`BlobKey`](crate::BlobKey), so a path outside the folder cannot be spelled.

mod folder;
mod receive;
mod service;

use std::{net::SocketAddr, path::Path, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{BlobSettings, S3Credentials};

/// The bucket that the embedded server has.
pub const EMBEDDED_BUCKET: &str = "tunesmith";
/// The region that it claims.
const REGION: &str = "us-east-1";
/// How long requests may go on after the server was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Longest wait for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The embedded server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedS3Error {
    /// Its folder cannot be used.
    #[error("cannot use the object store's folder")]
    Folder(#[source] std::io::Error),
    /// Its port cannot be used.
    #[error("the object store cannot listen on 127.0.0.1:{port}")]
    Listen {
        /// The port; 0 asks for any free one.
        port: u16,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
}

/// A running embedded server. Dropped, it stops at once; [`EmbeddedS3::stop`] lets requests finish.
#[derive(Debug)]
pub struct EmbeddedS3 {
    address: SocketAddr,
    credentials: S3Credentials,
    stopping: CancellationToken,
    server: JoinHandle<()>,
}

impl EmbeddedS3 {
    /// Serves `folder` (made where it is missing) on 127.0.0.1; `port` 0 picks a free one. Only one server may use
    /// a folder at a time, which the caller ensures. Uploads that an earlier server left unfinished are removed.
    ///
    /// # Errors
    /// The folder cannot be made or the port cannot be bound.
    pub async fn start(
        folder: &Path,
        credentials: S3Credentials,
        port: u16,
    ) -> Result<Self, EmbeddedS3Error> {
        let folder = folder::ObjectFolder::open(folder).map_err(EmbeddedS3Error::Folder)?;
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .map_err(|source| EmbeddedS3Error::Listen { port, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| EmbeddedS3Error::Listen { port, source })?;
        let mut builder = S3ServiceBuilder::new(service::EmbeddedService::new(folder));
        builder.set_auth(SimpleAuth::from_single(
            credentials.access_key_id.as_str(),
            credentials.secret_access_key.as_str(),
        ));
        let stopping = CancellationToken::new();
        let server = tokio::spawn(serve(listener, builder.build(), stopping.clone()));
        Ok(Self {
            address,
            credentials,
            stopping,
            server,
        })
    }

    /// Where the server listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client needs to know.
    #[must_use]
    pub fn settings(&self) -> BlobSettings {
        BlobSettings {
            endpoint: Some(format!("http://{}", self.address)),
            bucket: EMBEDDED_BUCKET.to_owned(),
            region: REGION.to_owned(),
            credentials: Some(self.credentials.clone()),
        }
    }

    /// Takes no further connections, and waits up to 10 seconds for requests under way.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        let _ = (&mut self.server).await;
    }
}

impl Drop for EmbeddedS3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service, stopping: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let socket = tokio::select! {
            () = stopping.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "the object store cannot accept a connection");
                    // Out of file descriptors, most likely: wait for connections to end rather than spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "could not set nodelay");
        }
        let connection = builder.serve_connection(TokioIo::new(socket), service.clone());
        let connection = graceful.watch(connection.into_owned());
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the object store ended with an error");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(STOP_GRACE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests to the object store were cut off");
    }
}

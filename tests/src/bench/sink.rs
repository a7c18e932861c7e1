//! A server that only sends PUBACKs: with it, the load shows what it can do by itself on this machine.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::mqtt;
use super::speak::{self, Line};

/// Arguments of the sink.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its certificate, PEM
    #[arg(long)]
    certificate: PathBuf,
    /// The certificate's key, PEM
    #[arg(long)]
    key: PathBuf,
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until standard input ends.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let chain = CertificateDer::pem_file_iter(&args.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let key = PrivateKeyDer::from_pem_file(&args.key).map_err(io::Error::other)?;
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(chain.map_err(io::Error::other)?, key).map_err(io::Error::other)?;
    let tls = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(args.listen).await?;
    Line::Begin.say()?;
    tokio::select! {
        () = speak::until_told() => Ok(()),
        failed = accept(listener, tls) => failed,
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let tls = tls.clone();
        // A client that goes is not missed.
        tokio::spawn(async move { serve(stream, tls).await });
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = tls.accept(stream).await?;
    let (mut inbox, mut out) = (BytesMut::with_capacity(64 * 1024), vec![]);
    while stream.read_buf(&mut inbox).await? != 0 {
        while let Some(seen) = mqtt::first(&inbox) {
            match seen.kind {
                mqtt::CONNECT_KIND => out.extend_from_slice(&mqtt::CONNACK),
                mqtt::PUBLISH_KIND => {
                    let id = mqtt::publish_id(seen.content).ok_or(io::ErrorKind::InvalidData)?;
                    out.extend_from_slice(&mqtt::puback(id));
                }
                _ => {}
            }
            let length = seen.length;
            inbox.advance(length);
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
    }
    Ok(())
}

//! Outbound TLS: certificates of a private authority are trusted if `DCA_TLS_CA_FILE` names it.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, mpsc},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use dca_auth::{Config, app};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer};

use crate::support::harness::{LIMIT, TestApp, it_unstarted};

/// A TLS server with a certificate for `localhost` of its own authority, whose certificate it writes to `ca.pem`.
/// After `preface` bytes in plain text it answers `S`, as Postgres does. Reports whether the client trusted it.
fn start_server(t: &TestApp, preface: usize) -> (u16, mpsc::Receiver<bool>) {
    let issuer_key = rcgen::KeyPair::generate().unwrap();
    let mut issuer = rcgen::CertificateParams::new([]).unwrap();
    issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = issuer.self_signed(&issuer_key).unwrap();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(ca.der()));
    std::fs::write(t.dir().join("ca.pem"), pem).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(issuer, issuer_key);
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, trusted) = mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            if preface > 0 {
                socket.read_exact(&mut vec![0; preface]).unwrap();
                socket.write_all(b"S").unwrap();
            }
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
            // An SMTP client waits for the greeting; the others speak first.
            let is_trusted = tls.write_all(b"220 hello\r\n").is_ok() && tls.read(&mut [0; 64]).is_ok_and(|n| n > 0);
            if sender.send(is_trusted).is_err() {
                return;
            }
        }
    });
    (port, trusted)
}

fn load(t: &TestApp, settings: &[(&str, &str)]) -> Config {
    let mut env = t.env().clone();
    env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Config::load(env).unwrap()
}

#[test]
fn a_private_authority_is_trusted_by_mail_redis_and_postgres_if_it_is_configured() {
    it_unstarted(|t| async {
        for service in ["mail", "redis", "postgres"] {
            let ca = t.dir().join("ca.pem").display().to_string();
            for (ca_file, expected) in [("", false), (ca.as_str(), true)] {
                let (port, trusted) = start_server(&t, if service == "postgres" { 8 } else { 0 });
                let (port, ca_file) = (port.to_string(), ("DCA_TLS_CA_FILE", ca_file));
                // The server speaks none of the protocols, so each of these fails in any case.
                match service {
                    "mail" => {
                        let host = [("DCA_SMTP_HOST", "localhost"), ("DCA_SMTP_PORT", &port), ("DCA_SMTP_TLS", "tls")];
                        let app = t.assemble(&[&host[..], &[ca_file]].concat()).await.unwrap();
                        _ = app.mailer.check_connection().await;
                    }
                    "redis" => {
                        let url = format!("rediss://localhost:{port}");
                        _ = app::ping_redis(&load(&t, &[("DCA_REDIS_URL", &url), ca_file])).await;
                    }
                    _ => {
                        let url = format!("postgres://dca@localhost:{port}/dca?sslmode=verify-full");
                        _ = app::open_database(&load(&t, &[("DCA_DATABASE_URL", &url), ca_file])).await;
                    }
                }
                let is_trusted = trusted.recv_timeout(LIMIT).unwrap();
                assert_eq!(is_trusted, expected, "{service}, {ca_file:?}");
            }
        }
        t
    });
}

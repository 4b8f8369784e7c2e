//! The proxy that programs are told of: every byte goes to the gateway, which speaks the proxy protocol, and back.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::{Egress, link};

/// How long a caller that is told of a failure may take to read it.
const FAREWELL: Duration = Duration::from_secs(2);

pub async fn serve(egress: Arc<Egress>, listener: TcpListener) {
    loop {
        let Ok(slot) = Arc::clone(&egress.slots).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let egress = Arc::clone(&egress);
        tokio::spawn(async move {
            let _slot = slot;
            connection(&egress, stream).await;
        });
    }
}

async fn connection(egress: &Egress, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    match link::gateway(&egress.gateway).await {
        // Which side broke is told by the connection itself.
        Ok(gateway) => drop(link::carry(&stream, &gateway).await),
        Err(error) => {
            egress.log.line(&format!("the gateway does not answer: {error}"));
            let answer = unavailable(&format!(
                "the session's gateway does not answer ({error}); try again in a moment"
            ));
            let _ = tokio::time::timeout(FAREWELL, say(&stream, answer.as_bytes())).await;
        }
    }
}

pub fn unavailable(why: &str) -> String {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\nwharf: {why}\n",
        "wharf: \n".len() + why.len()
    )
}

/// Says the last words of a connection so that they arrive: closing with something unread would take them back.
pub async fn say(stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    use link::End as _;
    link::write_all(stream, bytes).await?;
    stream.finish()?;
    let mut rest = [0; 4096];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

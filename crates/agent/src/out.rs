//! What the agent says to its host: JSON lines on one stream, whole ones, in order.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use wharf_wire::host::agent::FromAgent;

#[derive(Clone)]
pub struct Out {
    stream: Arc<Mutex<Box<dyn Write + Send>>>,
}

impl Out {
    pub fn new(stream: Box<dyn Write + Send>) -> Self {
        Self { stream: Arc::new(Mutex::new(stream)) }
    }

    /// A host that does not listen any more has no use for the agent: it ends it.
    pub fn say(&self, said: &FromAgent) {
        let Ok(mut line) = serde_json::to_vec(said) else { return };
        line.push(b'\n');
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.write_all(&line).and_then(|()| stream.flush());
    }
}

//! Work that takes as long as a device takes to answer: on a thread of its own, so that everything else goes on meanwhile.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use tokio::sync::oneshot;

/// Work that is being done. It goes on when this is dropped.
#[derive(Debug)]
#[must_use = "nobody waits for it"]
pub struct Blocking<T>(oneshot::Receiver<io::Result<T>>);

/// Begins it. tokio's own way to do so panics where no thread can be had.
///
/// # Errors
/// Told when it is awaited: `EAGAIN`, no thread can be had (pthread_create(3)); or the thread panicked.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
    let (tell, told) = oneshot::channel();
    let thread = thread::Builder::new().name("gvad-blocking".to_owned());
    let begun = thread.spawn(move || {
        // Whoever asked may have given up waiting.
        let _ = tell.send(Ok(work()));
    });
    match begun {
        Ok(_) => Blocking(told),
        Err(err) => {
            let (tell, told) = oneshot::channel();
            let _ = tell.send(Err(err)); // `told` is there
            Blocking(told)
        }
    }
}

impl<T> Future for Blocking<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|told| told.unwrap_or_else(|_| Err(io::Error::other("its thread panicked"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_comes_to_is_told_and_a_panic_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        assert_eq!(runtime.block_on(blocking(|| 7)).unwrap(), 7);
        let died = runtime.block_on(blocking(|| -> u8 { panic!("on purpose") }));
        assert_eq!(died.unwrap_err().to_string(), "its thread panicked");
    }
}

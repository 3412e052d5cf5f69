//! What is kept of a request while it is sent.

use std::fmt;

use http::{Extensions, Method, Request, Uri, Version};

use super::packed::Packed;

/// What it takes to send a request once more: its method, version, extensions and a clone of its body as
/// they are, and its headers and URI packed into one allocation.
///
/// To clone a map of headers takes two allocations, and one more for each value that was made of text;
/// to clone a URI counts twice up and twice down across processors; all that for a request that is hardly
/// ever sent again. Packed it is a few copies of bytes, and who pays for unpacking is a retry. See
/// [`Protocol::save`](crate::pipeline::Protocol::save).
///
/// # Examples
///
/// ```
/// use evenkeel::http::SavedRequest;
/// use http::Request;
///
/// let request = Request::put("http://ledger/7").header("accept", "text/plain").body("paid").unwrap();
/// let again = SavedRequest::of(&request).restore();
/// assert_eq!(again.uri(), request.uri());
/// assert_eq!(again.headers(), request.headers());
/// assert_eq!(again.body(), request.body());
/// ```
#[must_use = "what is saved is to be restored"]
pub struct SavedRequest<B> {
    body: B,
    packed: Packed,
    extensions: Extensions,
    /// Unless it is packed.
    uri: Option<Box<Uri>>,
    method: Method,
    version: Version,
}

impl<B: Clone> SavedRequest<B> {
    /// Saves all of it.
    #[inline]
    pub fn of(request: &Request<B>) -> Self {
        let packed = Packed::of_request(request.uri(), request.headers());
        let extensions = request.extensions();
        Self {
            body: request.body().clone(),
            extensions: if extensions.is_empty() {
                Extensions::new()
            } else {
                extensions.clone()
            },
            uri: (!packed.has_uri()).then(|| Box::new(request.uri().clone())),
            method: request.method().clone(),
            version: request.version(),
            packed,
        }
    }
}

impl<B> SavedRequest<B> {
    /// The request as it was.
    #[must_use]
    pub fn restore(self) -> Request<B> {
        let uri = self.uri.map(|uri| *uri).or_else(|| self.packed.uri());
        let mut request = Request::new(self.body);
        *request.uri_mut() = uri.expect("it is packed, or here");
        *request.method_mut() = self.method;
        *request.version_mut() = self.version;
        *request.extensions_mut() = self.extensions;
        self.packed.unpack(request.headers_mut());
        request
    }

    pub(super) const fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl<B> fmt::Debug for SavedRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be passwords in it.
        f.debug_struct("SavedRequest").finish_non_exhaustive()
    }
}

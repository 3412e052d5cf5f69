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
        // Before the long work: what was just written is dear to move.
        let body = request.body().clone();
        let method = request.method().clone();
        let mut extensions = Extensions::new();
        if !request.extensions().is_empty() {
            extensions = request.extensions().clone();
        }
        let packed = Packed::of_request(request.uri(), request.headers());
        let uri = (!packed.has_uri()).then(|| Box::new(request.uri().clone()));
        Self {
            body,
            packed,
            extensions,
            uri,
            method,
            version: request.version(),
        }
    }
}

impl<B> SavedRequest<B> {
    /// The request as it was.
    #[must_use]
    pub fn restore(self) -> Request<B> {
        let mut request = Request::new(self.body);
        if let Some(uri) = self.packed.uri().or_else(|| self.uri.map(|uri| *uri)) {
            *request.uri_mut() = uri;
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Extra(u32);

    proptest! {
        #[test]
        fn what_is_restored_is_what_was_saved(
            method in "[A-Z]{1,20}",
            uri in "https?://[a-z]{1,9}(:[1-9][0-9]{0,3})?/[a-z?=]{0,20}|ftp://a/b|/path|a:80|[*]",
            fields in prop::collection::vec(("[a-z-]{1,9}", "[ -~]{0,40}"), 0..9),
            version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
            extra in prop::option::of(any::<u32>()),
            body in ".{0,40}",
        ) {
            let mut request = Request::new(body);
            *request.method_mut() = method.parse().expect("a token");
            *request.uri_mut() = uri.parse().expect("valid");
            *request.version_mut() = version;
            for (name, value) in fields {
                let name: http::HeaderName = name.parse().expect("valid");
                request.headers_mut().append(name, value.parse().expect("valid"));
            }
            if let Some(extra) = extra {
                request.extensions_mut().insert(Extra(extra));
            }
            let again = SavedRequest::of(&request).restore();
            prop_assert_eq!(again.method(), request.method());
            prop_assert_eq!(again.uri(), request.uri());
            prop_assert_eq!(again.version(), request.version());
            prop_assert!(again.headers().iter().eq(request.headers()));
            prop_assert_eq!(again.extensions().get::<Extra>(), request.extensions().get());
            prop_assert_eq!(again.body(), request.body());
        }
    }

    #[test]
    fn it_shows_nothing() {
        let request = Request::get("http://me:secret@a/").header("cookie", "secret");
        let saved = SavedRequest::of(&request.body("secret").expect("valid"));
        assert_eq!(format!("{saved:?}"), "SavedRequest { .. }");
    }
}

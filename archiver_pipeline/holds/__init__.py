"""Legal holds from elsewhere: the only home of the HTTP client that asks for them."""

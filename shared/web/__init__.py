"""The web kit that all services share: one way to authenticate, to fail, to page, to repeat a request safely."""

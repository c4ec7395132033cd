"""The generated messages and stubs of the public API, `attendant.v1`."""

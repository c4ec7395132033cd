"""Who makes the call that is served: a name, for whoever has to tell callers apart."""

from contextvars import ContextVar

# The name of the caller's token, else of its client certificate, else what the metadata key of the
# setting `caller_metadata` says; empty where there is none of them. gRPC and HTTP set it before a
# call reaches an engine.
current_caller: ContextVar[str] = ContextVar("caller", default="")

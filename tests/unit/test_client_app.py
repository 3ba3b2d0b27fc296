"""What the Flower app keeps of a client between two messages."""

from flwr.app import ConfigRecord, Context, RecordDict

from hedgerow.client.app import _record_of, _state_in
from hedgerow.client.memory import ClientState

STATE = ClientState(rounds=3, mask=b"m", version=b"v", residuals=(b"k", b"f"), pool=b"p")


def context_with(record: ConfigRecord | None) -> Context:
    state = RecordDict({} if record is None else {"hedgerow": record})
    return Context(run_id=1, node_id=2, node_config={}, state=state, run_config={})


def test_what_is_kept_is_found_again() -> None:
    assert _state_in(context_with(_record_of(STATE))) == STATE
    assert _state_in(context_with(_record_of(ClientState()))) == ClientState()


def test_who_was_never_asked_has_nothing() -> None:
    assert _state_in(context_with(None)) == ClientState()


def test_a_state_from_before_there_were_pools_is_read() -> None:
    record = _record_of(STATE)
    del record["pool"]
    assert _state_in(context_with(record)) == ClientState(3, b"m", b"v", (b"k", b"f"))

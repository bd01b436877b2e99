import stat

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.canonical import canonical_bytes, document_hash
from gemel.core.errors import GemelError
from gemel.core.signing import (
    SigningKey,
    fingerprint,
    read_signed,
    sign_document,
    signed_by,
    verify_bytes,
)

KEY = SigningKey.generate()
PAYLOAD = {"study": "fatty liver", "sites": ["north", "south"], "epsilon": 3.0}
DOCUMENT = sign_document("study", PAYLOAD, KEY, role="proposer")


def _changed(**fields):
    return canonical_bytes({**msgspec.to_builtins(DOCUMENT), **fields})


def _code(content, **options):
    with pytest.raises(GemelError) as caught:
        read_signed(content, **options)
    return caught.value.code


def test_a_signed_document_survives_its_bytes():
    assert read_signed(DOCUMENT.to_bytes(), kind="study") == DOCUMENT


def test_a_changed_payload_no_longer_matches_its_hash():
    assert _code(_changed(payload={**PAYLOAD, "epsilon": 30.0})) == "GEM103"


def test_a_changed_payload_with_its_hash_corrected_no_longer_matches_the_signature():
    forged = {**PAYLOAD, "epsilon": 30.0}
    assert _code(_changed(payload=forged, payload_sha256=document_hash(forged))) == "GEM102"


def test_a_document_cannot_pass_for_one_of_another_kind():
    assert _code(_changed(kind="approval")) == "GEM102"
    assert _code(DOCUMENT.to_bytes(), kind="approval") == "GEM101"


def test_another_key_in_the_signature_is_refused():
    signature = msgspec.to_builtins(DOCUMENT.signatures[0])
    forged = {**signature, "public_key": SigningKey.generate().public_hex}
    assert _code(_changed(signatures=[forged])) == "GEM102"


def test_one_bad_signature_among_good_ones_is_refused():
    good = msgspec.to_builtins(DOCUMENT.signatures[0])
    assert _code(_changed(signatures=[good, {**good, "value": "00" * 64}])) == "GEM102"


def test_a_document_without_signatures_is_refused():
    assert _code(_changed(signatures=[])) == "GEM102"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b"\xff\xfe", b"not json", _changed(extra=1), _changed(schema="gemel/signed/2")],
)
def test_what_is_no_signed_document_is_named_so(content):
    assert _code(content) == "GEM101"


@given(st.data())
def test_any_changed_byte_of_the_payload_is_refused(data):
    content = DOCUMENT.to_bytes()
    start = content.index(b'"payload":') + len(b'"payload":')
    end = content.index(b',"payload_sha256"')
    position = data.draw(st.integers(start, end - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != content[position]))
    changed = content[:position] + bytes([byte]) + content[position + 1 :]
    assert _code(changed) in {"GEM101", "GEM102", "GEM103"}


def test_signed_by_knows_the_signer_only():
    assert signed_by(DOCUMENT, KEY.public_hex)
    assert not signed_by(DOCUMENT, SigningKey.generate().public_hex)


def test_malformed_keys_and_signatures_are_false_not_errors():
    assert verify_bytes(KEY.public_hex, KEY.sign(b"a"), b"a")
    assert not verify_bytes(KEY.public_hex, KEY.sign(b"a"), b"b")
    assert not verify_bytes("zz", "00", b"a")
    assert not verify_bytes(KEY.public_hex, "not hex", b"a")


def test_a_key_survives_its_file_and_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "node.key"
    KEY.save(path)
    assert SigningKey.load(path).public_hex == KEY.public_hex
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_is_never_written_over_another(tmp_path):
    path = tmp_path / "node.key"
    KEY.save(path)
    with pytest.raises(FileExistsError):
        SigningKey.generate().save(path)


def test_a_missing_or_foreign_key_file_is_gem407(tmp_path):
    (tmp_path / "text").write_text("no key")
    for name in ("absent", "text"):
        with pytest.raises(GemelError) as caught:
            SigningKey.load(tmp_path / name)
        assert caught.value.code == "GEM407"


def test_the_repr_of_a_key_shows_no_secret(tmp_path):
    path = tmp_path / "k"
    KEY.save(path)
    secret = "".join(path.read_text().splitlines()[1:-1])
    assert secret not in repr(KEY)
    assert KEY.public_hex[:16] in repr(KEY)


def test_fingerprints_of_different_keys_differ():
    assert fingerprint(KEY.public_hex) != fingerprint(SigningKey.generate().public_hex)

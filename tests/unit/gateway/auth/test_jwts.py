"""JWTs: what is refused, why, and in which order; secrets and public keys never stand in for each other."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from smithers.errors import InvalidInput
from smithers.gateway.auth.config import JwtAuth
from smithers.gateway.auth.identity import Identity
from smithers.gateway.problems import RpcError

NOW = 1_800_000_000
SECRET = "a secret of thirty-two bytes, at least"
CLAIMS: dict[str, object] = {"iss": "issuer", "aud": "gateway", "exp": NOW + 100, "sub": "ann", "scope": "run:read"}
AUTH = JwtAuth(issuer="issuer", audience=("gateway", "console"), secret=SECRET)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
KEYS: dict[str, PrivateKey] = {"RS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}


def pem(key: PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: object, claims: object, secret: str = SECRET) -> str:
    """A token of any shape, with a signature that is right for the secret."""
    text = ".".join(b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{b64(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"


def made(**claims: object) -> str:
    """A token that is right but for the given claims."""
    return signed({"alg": "HS256"}, CLAIMS | claims)


def without(claim: str) -> str:
    """A token that is right but for the one claim that is not there."""
    return signed({"alg": "HS256"}, {key: value for key, value in CLAIMS.items() if key != claim})


def verify(token: str, auth: JwtAuth = AUTH, now: float = NOW) -> Identity:
    return auth.verify(token.encode(), int(now * 1000))


def refusal(token: str, auth: JwtAuth = AUTH, now: float = NOW) -> str:
    with pytest.raises(RpcError) as refused:
        verify(token, auth, now)
    assert refused.value.error_code == "UNAUTHORIZED"
    is_expired = refused.value.summary == "JWT has expired"
    assert refused.value.extras == ({"refresh": "smithers token issue"} if is_expired else {})
    return refused.value.summary


def with_key(algorithm: str, key: PrivateKey | None = None, **more: object) -> JwtAuth:
    base: Mapping[str, object] = {"issuer": "issuer", "audience": "gateway", "algorithms": [algorithm]}
    return JwtAuth(**{**base, "keys": pem(key or KEYS[algorithm]), **more})  # type: ignore[arg-type]


def test_a_token_of_another_library_says_who_it_is() -> None:
    token = jwt.encode(CLAIMS | {"role": "lead", "aud": ["x", "console"]}, SECRET, "HS256")
    token_id = hashlib.sha256(token.encode()).hexdigest()[:16]
    assert verify(token) == Identity("lead", ("run:read",), "ann", token_id, (NOW + 100 + 60) * 1000)


@pytest.mark.parametrize(
    ("scope", "grants"),
    [
        ("run:read, cron:read  admin", ("run:read", "cron:read", "admin")),
        (["run:read ", 7, "", None, "x y"], ("run:read", "x y")),
        ("", ("default",)),
        ([], ("default",)),
        (7, ("default",)),
        ({"a": "b"}, ("default",)),
    ],
)
def test_scopes_come_from_a_list_or_a_string(scope: object, grants: tuple[str, ...]) -> None:
    auth = JwtAuth(issuer="issuer", audience="gateway", secret=SECRET, default_scopes=["default"])
    assert verify(made(scope=scope), auth).scopes == grants


def test_claims_of_other_names_and_kinds() -> None:
    auth = JwtAuth("issuer", "gateway", SECRET, scopes_claim="scp", role_claim="grp", user_claim="email")
    assert verify(made(scp=["*"], grp="lead", email="a@b"), auth) == Identity(
        "lead", ("*",), "a@b", verify(made(scp=["*"], grp="lead", email="a@b"), auth).token_id, (NOW + 160) * 1000
    )
    odd = verify(made(scp=None, grp=["lead"], email=7), auth)
    assert (odd.role, odd.user_id, odd.scopes) == ("operator", None, ())


@pytest.mark.parametrize(
    "token",
    [
        "",
        "abc",
        "..",
        "a.b",
        "a.b.c.d",
        made().rpartition(".")[0] + ".",
        made().rpartition(".")[0],
        "." + made().partition(".")[2],
        made() + "=",
        " " + made(),
        signed([], CLAIMS),
        signed({"alg": "HS256"}, [CLAIMS]),
        signed({"alg": "HS256"}, "text"),
        signed(b"\xff", CLAIMS),
        signed({"alg": "HS256"}, b'{"iss":"issuer","exp":NaN}'),
        signed({"alg": "HS256"}, b"[" * 3000),
        "ü.ü.ü",
        "__proto__",
        made(long="x" * 20_000),
    ],
)
def test_what_has_not_the_shape_of_a_jwt_is_refused(token: str) -> None:
    assert refusal(token) in ("Malformed JWT", "JWT signature verification failed")


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", "HS512", "RS256", "hs256", None, 7, ["HS256"]]
)
@pytest.mark.parametrize("signature", ["", "AA", None])
def test_no_token_chooses_its_algorithm(algorithm: object, signature: str | None) -> None:
    token = signed({"alg": algorithm}, CLAIMS)
    if signature is not None:
        token = token.rpartition(".")[0] + "." + signature
    assert refusal(token) == ("Malformed JWT" if signature == "" else "Unsupported JWT algorithm")


def test_critical_headers_are_refused() -> None:
    assert refusal(signed({"alg": "HS256", "crit": ["b64"], "b64": False}, CLAIMS)).startswith("Unsupported JWT header")


def test_a_forged_token_is_refused() -> None:
    head, claims, signature = made().split(".")
    assert refusal(signed({"alg": "HS256"}, CLAIMS, "another secret")) == "JWT signature verification failed"
    assert refusal(f"{head}.{b64(json.dumps(CLAIMS | {'sub': 'root'}).encode())}.{signature}").startswith(
        "JWT signature"
    )
    assert refusal(f"{head}.{claims}.{signature[:-4]}").startswith("JWT signature")
    assert refusal(f"{head}.{claims}.{b64(bytes(32))}").startswith("JWT signature")


def test_a_signature_has_one_spelling() -> None:
    head, claims, signature = made().split(".")
    last = ALPHABET[ALPHABET.index(signature[-1]) ^ 1]  # differs in a bit that stands for nothing
    for other in (signature[:-1] + last, signature + "=", signature + "\n", "+" + signature[1:], "/" + signature[1:]):
        assert refusal(f"{head}.{claims}.{other}") == "JWT signature verification failed"


@pytest.mark.parametrize("issuer", ["other", "issuer ", "", None, ["issuer"]])
def test_the_issuer_must_be_the_one(issuer: object) -> None:
    assert refusal(made(iss=issuer)) == "JWT issuer did not match"
    assert refusal(without("iss")) == "JWT issuer did not match"


@pytest.mark.parametrize("audience", ["other", [], ["other", {"a": 1}], None, 7, {"gateway": True}])
def test_one_audience_must_be_ours(audience: object) -> None:
    assert refusal(made(aud=audience)) == "JWT audience did not match"
    assert refusal(without("aud")) == "JWT audience did not match"


@pytest.mark.parametrize("moment", [10**400, 10**18, 1e300], ids=["huge", "large", "float"])
def test_an_expiry_that_is_as_good_as_never_is_one_that_timers_take(moment: float) -> None:
    ends_ms = verify(made(exp=moment)).expires_at_ms
    assert ends_ms is not None
    assert NOW * 1000 < ends_ms < 10**16
    assert refusal(made(nbf=moment)) == "JWT is not active yet"


@pytest.mark.parametrize("moment", ["soon", None, True, str(NOW + 100), [], {}])
def test_an_expiry_must_be_a_number(moment: object) -> None:
    assert refusal(made(exp=moment)) == "JWT is missing a valid exp claim"
    assert refusal(without("exp")) == "JWT is missing a valid exp claim"


def test_the_skew_is_granted_at_both_ends_to_the_millisecond() -> None:
    assert verify(made(), now=NOW + 159.999).expires_at_ms == (NOW + 160) * 1000
    assert refusal(made(), now=NOW + 160) == "JWT has expired"
    assert refusal(made(exp=NOW + 0.5), now=NOW + 60.5) == "JWT has expired"
    assert verify(made(nbf=NOW + 60))
    assert refusal(made(nbf=NOW + 60.001)) == "JWT is not active yet"
    assert verify(made(nbf="later"))
    exact = JwtAuth("issuer", "gateway", SECRET, clock_skew_seconds=-1)
    assert refusal(made(exp=NOW), exact) == "JWT has expired"


@pytest.mark.parametrize("moment", [1e308, -1e308, 10**400, 1e15, 9e15, -1, 0, 0.1], ids=range(8))
def test_far_moments_overflow_nothing(moment: float) -> None:
    if moment > NOW:
        assert verify(made(exp=moment, nbf=-moment))
        assert refusal(made(nbf=moment)) == "JWT is not active yet"
    else:
        assert refusal(made(exp=moment)) == "JWT has expired"


def test_required_claims_must_be_there() -> None:
    auth = JwtAuth("issuer", "gateway", SECRET, required_claims=["tenant"])
    assert verify(made(tenant="acme"), auth)
    assert refusal(made(tenant=None), auth) == refusal(made(), auth) == "JWT is missing the tenant claim"


def test_checks_come_in_the_order_of_the_contract() -> None:
    wrong = CLAIMS | {"iss": "other", "aud": "other", "exp": 0, "nbf": NOW * 2}
    assert refusal(signed({"alg": "none"}, wrong, "wrong")) == "Unsupported JWT algorithm"
    assert refusal(signed({"alg": "HS256"}, wrong, "wrong")) == "JWT signature verification failed"
    assert refusal(made(**wrong)) == "JWT issuer did not match"
    assert refusal(made(**(wrong | {"iss": "issuer"}))) == "JWT audience did not match"
    assert refusal(made(exp=0, nbf=NOW * 2)) == "JWT has expired"


def test_an_identity_ends_with_its_token() -> None:
    found = verify(made())
    AUTH.recheck(found, (NOW + 160) * 1000 - 1)
    with pytest.raises(RpcError, match="JWT has expired"):
        AUTH.recheck(found, (NOW + 160) * 1000)


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_public_keys_verify_what_their_private_keys_signed(algorithm: str) -> None:
    auth = with_key(algorithm)
    token = jwt.encode(CLAIMS, KEYS[algorithm], algorithm, headers={"kid": "any"})
    assert verify(token, auth).user_id == "ann"
    text, _, signature = token.rpartition(".")
    for other in (b64(bytes(64)), b64(bytes(256)), "AA", signature[:-8], signature + "AAAA"):
        assert refusal(f"{text}.{other}", auth) == "JWT signature verification failed"
    head, _, _ = token.split(".")
    assert refusal(f"{head}.{b64(json.dumps(CLAIMS | {'sub': 'root'}).encode())}.{signature}", auth).startswith(
        "JWT sig"
    )


@pytest.mark.parametrize("algorithm", list(KEYS))
@pytest.mark.parametrize("form", ["pem", "stripped", "der"])
def test_a_public_key_is_never_a_secret(algorithm: str, form: str) -> None:
    der = KEYS[algorithm].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = pem(KEYS[algorithm])
    secret = {"pem": text, "stripped": text.strip(), "der": der.decode("latin-1")}[form]
    token = signed({"alg": "HS256"}, CLAIMS, secret)
    assert refusal(token, with_key(algorithm)) == "Unsupported JWT algorithm"
    both = with_key(algorithm, algorithms=["HS256", algorithm], secret=SECRET)
    assert refusal(token, both) == "JWT signature verification failed"
    assert verify(made(), both).user_id == "ann"


def test_a_key_is_used_for_its_own_algorithm_and_kid_only() -> None:
    auth = JwtAuth(
        "issuer", "gateway", algorithms=["RS256", "ES256"], keys={"r": pem(RSA_KEY), "e": pem(EC_KEY), "d": pem(ED_KEY)}
    )
    assert verify(jwt.encode(CLAIMS, RSA_KEY, "RS256", headers={"kid": "r"}), auth)
    assert verify(jwt.encode(CLAIMS, EC_KEY, "ES256"), auth)
    assert refusal(jwt.encode(CLAIMS, RSA_KEY, "RS256", headers={"kid": "e"}), auth).startswith("JWT signature")
    assert refusal(jwt.encode(CLAIMS, RSA_KEY, "RS256", headers={"kid": "other"}), auth).startswith("JWT signature")
    assert refusal(jwt.encode(CLAIMS, ED_KEY, "EdDSA", headers={"kid": "d"}), auth) == "Unsupported JWT algorithm"
    disguised = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": "ES256"}, CLAIMS))
    signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(disguised.encode(), RSA_KEY)
    assert refusal(f"{disguised}.{b64(signature)}", auth).startswith("JWT signature")


def test_keys_that_are_private_or_weak_are_no_configuration() -> None:
    private = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for bad in (private, pem(rsa.generate_private_key(65537, 1024)), pem(ec.generate_private_key(ec.SECP384R1()))):
        with pytest.raises(InvalidInput, match=r"auth\.keys"):
            JwtAuth("issuer", "gateway", algorithms=["RS256"], keys=bad)


def write_jwks(path: Path, *entries: object, moment_ns: int) -> None:
    path.write_text(json.dumps({"keys": entries}))
    os.utime(path, ns=(moment_ns, moment_ns))


def test_a_jwks_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    first = {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "1", "use": "sig", "alg": "RS256"}
    second = {**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "2"}
    write_jwks(path, first, moment_ns=1)
    auth = JwtAuth("issuer", "gateway", algorithms=["RS256", "ES256"], jwks_file=path)
    by_first = jwt.encode(CLAIMS, RSA_KEY, "RS256", headers={"kid": "1"})
    by_second = jwt.encode(CLAIMS, EC_KEY, "ES256", headers={"kid": "2"})
    assert verify(by_first, auth)
    assert refusal(by_second, auth).startswith("JWT signature")
    write_jwks(path, second, moment_ns=2_000_000_000)
    assert verify(by_second, auth)
    assert refusal(by_first, auth).startswith("JWT signature")


def test_a_broken_jwks_file_leaves_the_keys_as_they_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "jwks.json"
    write_jwks(path, OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True), moment_ns=1)
    auth = JwtAuth("issuer", "gateway", algorithms=["EdDSA"], jwks_file=str(path))
    token = jwt.encode(CLAIMS, ED_KEY, "EdDSA")
    path.write_text('{"keys": [{"kty"')
    assert verify(token, auth)
    path.unlink()
    assert verify(token, auth)
    assert "cannot be read" in caplog.text


def test_entries_of_a_jwks_file_that_are_not_for_signatures_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    public = RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)
    write_jwks(
        path,
        {"kty": "oct", "k": b64(SECRET.encode()), "alg": "HS256"},
        {**public, "use": "enc"},
        {**public, "alg": "RS512"},
        {"kty": "RSA", "n": "!", "e": "AQAB"},
        {"kty": "RSA"},
        RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True),
        RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True),
        "text",
        moment_ns=1,
    )
    auth = JwtAuth("issuer", "gateway", algorithms=["RS256"], jwks_file=path)
    assert refusal(jwt.encode(CLAIMS, RSA_KEY, "RS256"), auth) == "JWT signature verification failed"
    assert refusal(made(), auth) == "Unsupported JWT algorithm"


@given(st.binary(max_size=60) | st.text(alphabet=ALPHABET + ".=", max_size=60).map(str.encode))
def test_random_bytes_are_refused_politely(token: bytes) -> None:
    with pytest.raises(RpcError):
        AUTH.verify(token, NOW * 1000)


@given(
    claims=st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "nbf", "scope", "role", "sub"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_signed_claims_of_any_kind_let_in_or_are_refused(claims: dict[str, object]) -> None:
    with suppress(RpcError):
        found = verify(signed({"alg": "HS256"}, CLAIMS | claims))
        assert found.role
        assert all(isinstance(scope, str) for scope in found.scopes)

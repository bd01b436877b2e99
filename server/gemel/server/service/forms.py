"""The forms of requests and answers, checked to the last field; OpenAPI is made of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from gemel.server.service.roles import Role
from gemel.server.service.tokens import TokenKind
from gemel.server.service.users import UserState
from gemel.server.studies import StudyState

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=3, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
Secret = Annotated[SecretStr, Field(min_length=1, max_length=1000)]
# No control characters: PostgreSQL takes no NUL, and a log's line is one line.
_PLAIN = r"^[^\x00-\x1f\x7f]*$"


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class ErrorDetail(_Out):
    """A code of the closed list, in words."""

    code: str
    message: str
    hint: str


class ErrorOut(_Out):
    """Every refusal and every failure."""

    error: ErrorDetail


class LoginIn(_In):
    """Name and password."""

    name: Name
    password: Secret


class SetupIn(_In):
    """A one-time setup token, and the password that its user chooses."""

    token: Secret
    password: Secret


class PasswordIn(_In):
    """A change of password needs the old one."""

    old: Secret
    new: Secret


class TokenOut(_Out):
    """A token, without its secret. Times are seconds since 1970."""

    id: str
    kind: TokenKind
    role: Role
    label: str
    created_at: float
    expires_at: float
    ended_at: float


class SecretOut(_Out):
    """A token's secret, shown once."""

    secret: str
    token: TokenOut


class TokenIn(_In):
    """An API token of one's own: for some days, with at most one's own role."""

    label: Annotated[str, Field(min_length=1, max_length=100, pattern=_PLAIN)]
    days: Annotated[int, Field(ge=1, le=366)] = 90
    role: Role | None = None


class UserOut(_Out):
    """A user."""

    id: str
    name: str
    role: Role
    state: UserState
    identity: str | None
    created_at: str
    keys: list[str]


class UserIn(_In):
    """A new user; who it is at the identity provider, where one is used."""

    name: Name
    role: Role
    subject: Annotated[str, Field(min_length=1, max_length=255, pattern=_PLAIN)] | None = None


class UserMade(_Out):
    """A new user, with the setup token to hand over, shown once."""

    user: UserOut
    setup: SecretOut


class UserChange(_In):
    """Another role or state."""

    role: Role | None = None
    state: UserState | None = None


class KeyIn(_In):
    """A signing key, with a document of kind `user-key` signed by it that names the user: whoever sends it holds it."""

    proof: dict[str, Any]


class DraftIn(_In):
    """A study's document, not signed."""

    study: dict[str, Any]


class SignedIn(_In):
    """A study's document, signed by its owner."""

    document: dict[str, Any]


class SubmitIn(_In):
    """How long hospitals have to decide."""

    approval_days: Annotated[float, Field(gt=0, le=90)] = 14.0


class StopIn(_In):
    """Why a study is stopped."""

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=_PLAIN)]


class StepOut(_Out):
    """One move of a study."""

    state: StudyState
    actor: str
    at: str
    code: str
    reason: str


class SiteOut(_Out):
    """What a hospital said of a study."""

    site: str
    status: str
    code: str
    at: str


class StudyOut(_Out):
    """A study in a list."""

    id: str
    owner: str
    state: StudyState
    study_id: str
    title: str
    programme: str
    study_sha256: str | None
    created_at: str
    changed_at: str
    code: str
    certificate_sha256: str
    stop_asked: bool
    tasks_done: int
    tasks: int
    restarts: int


class StudyDetail(_Out):
    """A study with its document, its hospitals and its past."""

    study: StudyOut
    document: dict[str, Any]
    sites: list[SiteOut]
    history: list[StepOut]


class EventsOut(_Out):
    """A run's events, and where to go on; `state` is the study's now."""

    events: list[dict[str, Any]]
    next: int
    state: StudyState


class MemberOut(_Out):
    """A hospital's key. Its name at the SuperLink and its transport key are not for everybody."""

    site: str
    public_key: str
    state: str
    admitted_at: str
    expires_at: str
    ended_at: str


class FileOut(_Out):
    """A file of a run."""

    name: str
    bytes: int
    sha256: str


class HealthOut(_Out):
    """Whether the service and its store answer."""

    status: str
    software: str


class OidcIn(_In):
    """A login by the identity provider: the port that the program listens on, and the hash of the secret it keeps."""

    port: Annotated[int, Field(ge=1024, le=65535)]
    proof: Hash


class OidcBegun(_Out):
    """Where the browser goes."""

    address: str


class RedeemIn(_In):
    """The word that came back with the browser, and the program's secret."""

    handoff: Secret
    secret: Secret

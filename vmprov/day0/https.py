"""HTTPS to an orchestrator: verified, repeated where that may help, bounded, cancellable. Only this imports httpx."""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from vmprov.errors import AnswerUnreadable, NotTrusted, OrchestratorFailed, SpecError, Unreachable
from vmprov.spec.quantities import format_size
from vmprov.waiting import Cancel, Deadline

LARGEST_ANSWER = 16 * 1024**2
LARGEST_CA = 1024**2
# Seconds for a connection, for a silence within an answer, and for a request with all its repetitions.
CONNECT_LIMIT = 10.0
SILENCE_LIMIT = 30.0
REQUEST_LIMIT = 30.0
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 8.0
# Seconds between two looks at the cancel token.
_GLANCE = 0.1
_PASSING = frozenset((429, 502, 503, 504))
_REPEATABLE = frozenset(("GET", "DELETE"))
_BEGIN = "-----BEGIN CERTIFICATE-----"
_PEM = re.compile(rf"{_BEGIN}.*?(?:-----END CERTIFICATE-----|(?={_BEGIN})|\Z)", re.S)
# Of OpenSSL's verification errors (X509_V_ERR_*).
_EXPIRED, _NOT_YET_VALID, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """What certificates are verified with: those in a PEM file and no others, or the system's where there is none.

    Raises :class:`SpecError` where the file cannot serve: missing, no PEM, malformed, or expired.
    """
    if ca_file is None:
        return ssl.create_default_context()
    context = ssl.create_default_context(cadata=_certificates(ca_file))
    # What is given may be an intermediate one, or the server's own.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    roots = context.get_ca_certs()
    why_not = [why for root in roots if (why := _not_now(root))]
    if roots and len(why_not) == len(roots):
        raise SpecError(f"{ca_file}: {why_not[0]}", hint="get the present one from the orchestrator")
    return context


def _certificates(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            text = opened.read(LARGEST_CA + 1).decode("latin-1")
    except OSError as problem:
        raise SpecError(f"{file}: the CA's certificate cannot be read: {problem.strerror}") from problem
    if len(text) > LARGEST_CA:
        raise SpecError(f"{file}: larger than {format_size(LARGEST_CA)}", hint="give a PEM file with CA certificates")
    found = list(_PEM.finditer(text))
    if not found:
        der = text.startswith("0\x82")
        hint = f"convert it: openssl x509 -inform der -in {file} -out ca.pem" if der else f"it begins with {_BEGIN}"
        raise SpecError(f"{file}: there is no PEM certificate in it", hint=hint)
    for number, block in enumerate(found, start=1):
        try:
            ssl.create_default_context(cadata=block[0])
        except ssl.SSLError as problem:
            line = text.count("\n", 0, block.start()) + 1
            raise SpecError(
                f"{file}:{line}: certificate {number} is malformed: {_reason(problem)}", hint="get it anew"
            ) from problem
    return "\n".join(block[0] for block in found)


def _not_now(certificate: Mapping[str, Any]) -> str:
    """Why a certificate does not hold at present; nothing where it does."""
    first, last = (ssl.cert_time_to_seconds(certificate[key]) for key in ("notBefore", "notAfter"))
    name = ", ".join(f"{key}={value}" for parts in certificate["subject"] for key, value in parts)
    if time.time() > last:
        return f"the CA '{name}' expired on {_day(last)}"
    if time.time() < first:
        return f"the CA '{name}' is not valid before {_day(first)}; see that this machine's clock is right"
    return ""


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _reason(problem: ssl.SSLError) -> str:
    return str(problem.reason or problem.strerror or problem).lower().replace("_", " ")


@dataclass(frozen=True)
class Answer:
    """What came back.

    ``host``: who said it. ``repeated``: an earlier attempt may have been carried out, too.
    """

    host: str
    status: int
    body: bytes
    location: str = ""
    repeated: bool = False

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The JSON in it; raises :class:`AnswerUnreadable`."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as problem:
            shown = " ".join(self.body[:60].decode("utf-8", "replace").split())
            raise AnswerUnreadable(
                f"{self.host} does not answer in JSON but with {shown!r}" if shown else f"{self.host} answers nothing",
                hint="see that the address is that of an orchestrator's API, and no proxy is in between",
            ) from problem

    @property
    def said(self) -> str:
        """The server's own words about an error, on one line; nothing where there are none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return ""
        if not isinstance(document, dict):
            return ""
        words = (document.get(key) for key in ("error_description", "message", "detail", "error"))
        text = next((word for word in words if isinstance(word, str) and word), "")
        return "".join(char if char.isprintable() else " " for char in text)[:200]


@dataclass(frozen=True)
class _Broken:
    """An attempt without an answer; ``passing``: another one may succeed."""

    error: OrchestratorFailed
    passing: bool
    # Whether the request may have arrived.
    arrived: bool = True


class Https:
    """Connections to the machines of one orchestrator. Its methods may be called from any thread.

    ``context`` verifies certificates. ``connect_to``: an address (``ADDRESS`` or ``ADDRESS:PORT``) to connect to in
    place of what names resolve to; certificates are still verified against the names.
    """

    def __init__(self, context: ssl.SSLContext, *, connect_to: str = "", silence: float = SILENCE_LIMIT) -> None:
        self._connect_to = connect_to
        self._silence = silence
        transport = _ConnectTo(context, connect_to) if connect_to else None
        self._client = httpx.Client(verify=context, transport=transport, follow_redirects=False)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None = None,
        body: object = None,
        deadline: Deadline,
        cancel: Cancel,
    ) -> Answer:
        """Send a request and return the answer, whatever its status.

        What may pass - no connection, 429, 502 to 504 - is tried again until the deadline, with growing pauses.
        Raises :class:`Unreachable`, :class:`NotTrusted`, :class:`AnswerUnreadable`, or Interrupted.
        """
        content = json.dumps(body).encode() if body is not None else None
        more = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        if content is not None:
            more["Content-Type"] = "application/json"
        request = httpx.Request(method, url, headers=more, data=form, content=content)
        pause, repeated = _FIRST_PAUSE, False
        while True:
            cancel.check()
            outcome, after = self._attempt_within(request, deadline, cancel)
            passing = outcome.status in _PASSING if isinstance(outcome, Answer) else outcome.passing
            # Full jitter, so that many clients do not come back at the same moment.
            rest = max(after, random.uniform(0, pause))
            if not passing or rest >= deadline.left:
                if isinstance(outcome, _Broken):
                    raise outcome.error
                return Answer(outcome.host, outcome.status, outcome.body, outcome.location, repeated)
            # Not with 429 and 503: then nothing was done.
            repeated = repeated or (outcome.arrived if isinstance(outcome, _Broken) else outcome.status in (502, 504))
            cancel.sleep(rest)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _attempt_within(
        self, request: httpx.Request, deadline: Deadline, cancel: Cancel
    ) -> tuple[Answer | _Broken, float]:
        """One attempt in a thread of its own: nothing else can be interrupted at any moment, name resolution included.

        Also returns how many seconds the server wants to be left alone.
        """
        done: SimpleQueue[None] = SimpleQueue()
        outcome: list[tuple[Answer | _Broken, float]] = []

        def attempt() -> None:
            try:
                outcome.append(self._attempt(request, deadline))
            finally:
                done.put(None)

        threading.Thread(target=attempt, name="vmprov-https", daemon=True).start()
        while True:
            try:
                done.get(timeout=max(0.001, min(_GLANCE, deadline.left)))
                break
            except Empty:
                cancel.check()
                if deadline.expired:
                    return _Broken(self._too_slow(request, deadline.seconds), passing=False), 0.0
        if not outcome:
            return _Broken(
                OrchestratorFailed(f"asking {request.url.host} failed in a way nobody thought of"), False
            ), 0.0
        return outcome[0]

    def _attempt(self, request: httpx.Request, deadline: Deadline) -> tuple[Answer | _Broken, float]:
        host = request.url.host
        silence = max(0.05, min(self._silence, deadline.left))
        limits = httpx.Timeout(silence, connect=min(CONNECT_LIMIT, silence)).as_dict()
        # A request may be sent again: its body is bytes.
        sent = httpx.Request(
            request.method, request.url, headers=request.headers, content=request.content,
            extensions={"timeout": limits},
        )  # fmt: skip
        try:
            with _open(self._client, sent) as response:
                after = _seconds(response.headers.get("Retry-After", ""))
                body = _body(response)
                if body is None:
                    return _Broken(_too_large(host), passing=False), 0.0
                return Answer(host, response.status_code, body, response.headers.get("Location", "")), after
        except httpx.ConnectTimeout:
            return _Broken(self._unreachable(host, "no connection in time"), passing=True, arrived=False), 0.0
        except httpx.TimeoutException:
            return _Broken(self._too_slow(request, silence), passing=False), 0.0
        except httpx.ConnectError as problem:
            return self._no_connection(host, problem), 0.0
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as problem:
            why = self._unreachable(host, f"the connection broke: {_words(problem)}")
            return _Broken(why, passing=request.method in _REPEATABLE), 0.0

    def _no_connection(self, host: str, problem: httpx.ConnectError) -> _Broken:
        for cause in _causes(problem):
            if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                break
            if isinstance(cause, ssl.SSLError):
                return _Broken(_not_trusted(host, cause), passing=False, arrived=False)
            if isinstance(cause, socket.gaierror):
                why = Unreachable(
                    f"{host} cannot be reached: no address is known for that name",
                    hint="say where it is with --connect-to ADDRESS, or connect_to in vmprov.toml",
                )
                return _Broken(why, passing=cause.errno == socket.EAI_AGAIN, arrived=False)
        return _Broken(self._unreachable(host, _words(problem)), passing=True, arrived=False)

    def _unreachable(self, host: str, why: str) -> Unreachable:
        where = f"{host} (at {self._connect_to})" if self._connect_to else host
        return Unreachable(f"{where} cannot be reached: {why}", hint="see that the orchestrator runs and answers there")

    def _too_slow(self, request: httpx.Request, seconds: float) -> Unreachable:
        return Unreachable(
            f"{request.url.host} did not answer {request.method} {request.url.path} within {seconds:.0f} s",
            hint="see what keeps the orchestrator busy, and try again",
        )


class _ConnectTo(httpx.BaseTransport):
    """Connects to one address, whatever the name. Names are verified and share no connections."""

    def __init__(self, context: ssl.SSLContext, address: str) -> None:
        self._target = httpx.URL(f"https://{address}")
        self._open: Callable[[], httpx.HTTPTransport] = lambda: httpx.HTTPTransport(verify=context, trust_env=False)
        self._by_name: dict[str, httpx.HTTPTransport] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host
        with self._lock:
            transport = self._by_name.setdefault(name, self._open())
        port = self._target.port or request.url.port
        request.url = request.url.copy_with(host=self._target.host, port=port)
        request.extensions = {**request.extensions, "sni_hostname": name}
        return transport.handle_request(request)

    def close(self) -> None:
        for transport in self._by_name.values():
            transport.close()


@contextmanager
def _open(client: httpx.Client, request: httpx.Request) -> Iterator[httpx.Response]:
    response = client.send(request, stream=True)
    try:
        yield response
    finally:
        response.close()


def _body(response: httpx.Response) -> bytes | None:
    """All of it, or ``None`` where that is too much."""
    parts, size = [], 0
    for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            return None
    return b"".join(parts)


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,4}", text) else 0.0


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__


def _words(problem: BaseException) -> str:
    """What a connection's error says, without numbers and class names."""
    deepest = [cause for cause in _causes(problem) if isinstance(cause, OSError) and cause.strerror]
    text = deepest[-1].strerror or "" if deepest else str(problem) or type(problem).__name__
    return text[:1].lower() + text[1:]


def _too_large(host: str) -> AnswerUnreadable:
    return AnswerUnreadable(
        f"{host} answers with more than {format_size(LARGEST_ANSWER)}",
        hint="see that the address is that of an orchestrator's API",
    )


def _not_trusted(host: str, problem: ssl.SSLError) -> NotTrusted:
    if not isinstance(problem, ssl.SSLCertVerificationError):
        return NotTrusted(
            f"{host} does not speak TLS as it should: {_reason(problem)}", hint="see the address and port"
        )
    code = problem.verify_code
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        return NotTrusted(
            f"the certificate that {host} shows is for another name",
            hint="see that cluster and connect_to belong together",
        )
    if code in (_EXPIRED, _NOT_YET_VALID):
        when = "has expired" if code == _EXPIRED else "is not valid yet"
        return NotTrusted(
            f"the certificate that {host} shows, or one that it depends on, {when}",
            hint="renew it on the orchestrator; see that this machine's clock is right",
        )
    return NotTrusted(
        f"the certificate that {host} shows cannot be verified: {problem.verify_message}",
        hint="give the orchestrator's CA with --ca-file, or ca_file in vmprov.toml",
    )

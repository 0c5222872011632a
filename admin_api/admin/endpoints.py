"""`/api/admin`: what admins see and may change."""

from __future__ import annotations

from typing import Any, get_args
from urllib.parse import unquote

from sanic import HTTPResponse, Request, Sanic

from admin_api import access, audit
from admin_api.access import SignedIn
from admin_api.admin import activity, service, statistics, system
from admin_api.admin.documents import AuditRecord
from admin_api.admin.schemas import RoleName, UserChanges
from admin_api.admin.service import LONGEST_SEARCH, SORT_FIELDS, UserSearch
from admin_api.auth.sessions import end_sessions, list_sign_ins
from admin_api.auth.view import view_sign_in
from admin_api.envelope import success
from admin_api.models.schemas import ModelEdit
from admin_api.models.service import edit_model, find
from admin_api.pagination import count, read_page
from admin_api.users.schemas import PERIODS
from admin_api.users.view import view_user, view_users
from admin_api.validation import read_body, read_choice, read_id, read_text
from proxy.blueprint import Blueprint
from proxy.gateway import gateway_of
from proxy.metering.verify import account_ids, verify

blueprint = Blueprint("admin", url_prefix="/api/admin")
ACCOUNTS_VERIFIED = 1_000
_ANY = "any"


@blueprint.before_server_start
async def note_start(app: Sanic[Any, Any]) -> None:
    """Remember since when this process serves."""
    app.ctx.started_at = app.ctx.clock()


@blueprint.get("/stats")
@access.admin
async def show_statistics(request: Request, _caller: SignedIn) -> HTTPResponse:
    """Sum up users, sessions, messages and models over a period."""
    period = read_choice(request, "period", tuple(PERIODS), default="30d")
    stats = await statistics.collect(gateway_of(request), period)
    return success({"period": period, "stats": stats})


@blueprint.get("/users")
@access.admin
async def list_users(request: Request, caller: SignedIn) -> HTTPResponse:
    """List users, searched, filtered and sorted."""
    page, search = read_page(request), _read_search(request)
    await audit.record(
        request,
        "admin.users_listed",
        actor_id=str(caller.user_id),
        details={"search": search.text, "role": search.role, "page": page.page},
    )
    users, total = await service.find_users(search, page)
    shown = await view_users(users, gateway_of(request))
    return success({"users": shown}, results=len(shown), pagination=page.describe(total))


@blueprint.get("/users/<user_id:str>")
@access.admin
async def show_user(request: Request, caller: SignedIn, user_id: str) -> HTTPResponse:
    """Show a user and what he did lately."""
    found = read_id(user_id, missing="User not found")
    user = await service.get_user(found)
    await audit.record(request, "admin.user_viewed", actor_id=str(caller.user_id), target=user_id)
    gateway = gateway_of(request)
    data = {
        "user": await view_user(user, gateway),
        "activity": await activity.of_user(gateway.database, found),
    }
    return success(data)


@blueprint.patch("/users/<user_id:str>")
@access.admin
async def change_user(request: Request, caller: SignedIn, user_id: str) -> HTTPResponse:
    """Change a user's role, activity or limits."""
    target = read_id(user_id, missing="User not found")
    changes = read_body(request, UserChanges)
    user = await service.change_user(request, caller, target, changes)
    data = {"user": await view_user(user, gateway_of(request))}
    return success(data, message="User updated successfully")


@blueprint.delete("/users/<user_id:str>")
@access.admin
async def delete_user(request: Request, caller: SignedIn, user_id: str) -> HTTPResponse:
    """Delete a user with all that is his."""
    await service.delete_user(request, caller, read_id(user_id, missing="User not found"))
    return success(message="User deleted successfully")


@blueprint.get("/users/<user_id:str>/sessions")
@access.admin
async def list_sessions_of_user(request: Request, caller: SignedIn, user_id: str) -> HTTPResponse:
    """List where a user is signed in, the last used first."""
    found = read_id(user_id, missing="User not found")
    await service.get_user(found)
    await audit.record(request, "admin.sessions_viewed", actor_id=str(caller.user_id), target=user_id)
    signed_in = await list_sign_ins(found, now=gateway_of(request).clock())
    shown = [view_sign_in(session, current=caller.session.family) for session in signed_in]
    return success({"sessions": shown}, results=len(shown))


@blueprint.delete("/users/<user_id:str>/sessions")
@access.admin
async def revoke_sessions_of_user(request: Request, caller: SignedIn, user_id: str) -> HTTPResponse:
    """Sign a user out everywhere, at once and on every worker; his API keys stay."""
    found = read_id(user_id, missing="User not found")
    await service.get_user(found)
    await audit.record(request, "admin.sessions_revoked", actor_id=str(caller.user_id), target=user_id)
    await end_sessions(found)
    return success(message="All sessions revoked successfully")


@blueprint.get("/system")
@access.admin
async def show_system(request: Request, _caller: SignedIn) -> HTTPResponse:
    """Show how this process, the database and the providers are doing."""
    metrics = await system.measure(gateway_of(request), request.app.ctx.started_at)
    return success({"metrics": metrics})


@blueprint.get("/ledger/verify")
@access.admin
async def verify_ledger(request: Request, _caller: SignedIn) -> HTTPResponse:
    """Recompute the counters of up to a thousand accounts, or of one user's, from their usage events.

    `next` is where to go on.
    """
    gateway = gateway_of(request)
    user, after = (read_text(request, name, most=LONGEST_SEARCH) for name in ("user", "after"))
    await gateway.meter.flush()
    ids = [user] if user else await account_ids(gateway.database, after=after or None, most=ACCOUNTS_VERIFIED)
    report = await verify(gateway.database, ids)
    ledger = {
        "accounts": report.accounts,
        "events": report.events,
        "openHolds": report.open_holds,
        "drift": report.drift,
        "drifts": [
            {
                "userId": drift.user_id,
                "counter": drift.counter,
                "what": drift.what,
                "counted": drift.counted,
                "expected": drift.expected,
            }
            for drift in report.drifts
        ],
        "next": ids[-1] if len(ids) == ACCOUNTS_VERIFIED else None,
    }
    return success({"ledger": ledger})


@blueprint.patch("/models/<model_id:path>", unquote=False)
@access.admin
async def change_model(request: Request, caller: SignedIn, model_id: str) -> HTTPResponse:
    """Change a model's availability, status or price."""
    changes = read_body(request, ModelEdit).model_dump(exclude_unset=True)
    gateway, asked = gateway_of(request), unquote(model_id)
    found = find(gateway.catalog.current, asked, caller.user.role)
    await audit.record(
        request,
        "admin.model_changed",
        actor_id=str(caller.user_id),
        target=found.id,
        details={"changes": changes},
    )
    model = await edit_model(asked, changes, gateway)
    return success({"model": model}, message="Model updated successfully")


@blueprint.get("/audit")
@access.admin
async def list_audit_records(request: Request, _caller: SignedIn) -> HTTPResponse:
    """List the audit log, latest first, by action or actor."""
    page = read_page(request)
    wanted = {"action": read_text(request, "action"), "actorId": read_text(request, "actor")}
    query = {name: value for name, value in wanted.items() if value is not None}
    found = AuditRecord.find(query).sort("-at", "-_id").skip(page.skip).limit(page.limit)
    records = [_view_record(record) async for record in found]
    total = await count(AuditRecord, query)
    return success({"records": records}, results=len(records), pagination=page.describe(total))


def _read_search(request: Request) -> UserSearch:
    role = read_choice(request, "role", (*get_args(RoleName), _ANY), default=_ANY)
    status = read_choice(request, "status", ("active", "inactive", _ANY), default=_ANY)
    return UserSearch(
        text=read_text(request, "search", most=LONGEST_SEARCH),
        role=None if role == _ANY else role,
        is_active=None if status == _ANY else status == "active",
        sort_by=read_choice(request, "sortBy", tuple(SORT_FIELDS), default="createdAt"),
        descending=read_choice(request, "sortOrder", ("asc", "desc"), default="desc") == "desc",
    )


def _view_record(record: AuditRecord) -> dict[str, Any]:
    return {"_id": str(record.id), **record.model_dump(exclude={"id", "revision_id"})}

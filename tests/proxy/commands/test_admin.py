"""Tests of proxy/commands/admin.py and keys.py: whom an address means. The rest is shown in tests/test_commands.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from subprocess import CompletedProcess

from admin_api.users import deletion
from proxy.clock import utc_now
from tests.admin_api.accounts import signed_in
from tests.gateway import running_gateway
from tests.server_process import run_command

STORED, TYPED = "asharao@gmail.com", " Asha.Rao+tag@GoogleMail.com"


async def command(folder: Path, uri: str, noun: str, email: str) -> CompletedProcess[str]:
    """Run `<noun> create` for an address, while the gateway in this process goes on."""
    arguments = (noun, "create", "--email", email)
    return await asyncio.to_thread(run_command, folder, *arguments, MONGODB_URI=uri)


async def test_an_address_means_whoever_has_it_in_any_form(tmp_path: Path, mongodb_uri: str) -> None:
    """Who would be refused as taken at registration is found: he gets the role, and the key; nobody is made."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        await account.user.update({"$set": {"email": STORED}})
        made = await command(tmp_path, mongodb_uri, "admin", TYPED)
        assert made.stdout == f"{STORED} is an admin now; the password is unchanged\n", made.stderr
        (stored,) = await gateway.parts.database["users"].find().to_list()
        assert (stored["_id"], stored["role"]) == (account.id, "admin")
        key = await command(tmp_path, mongodb_uri, "keys", TYPED)
        headers = {"authorization": f"Bearer {key.stdout.strip()}"}
        assert (await gateway.http.get("/v1/key", headers=headers)).json()["role"] == "admin", key.stderr


async def test_an_account_that_is_being_deleted_gets_no_role(tmp_path: Path, mongodb_uri: str) -> None:
    """The operator is told so in one line, and the account stays as it is."""
    async with running_gateway(mongodb_uri) as gateway:
        account = await signed_in(gateway)
        await deletion.mark(account.id, now=utc_now())
        marked = await account.stored()
        email = account.user.email
        refused = await command(tmp_path, mongodb_uri, "admin", email)
        assert refused.returncode == 1
        assert refused.stderr == f"error: the account of {email} is being deleted; try again\n"
        assert await account.stored() == marked

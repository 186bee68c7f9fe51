# Calls the service with the client that openapi-python-client generates.
import sys

from dca import Client
from dca.api.licenses import post_licenses_validate
from dca.api.accounts import post_auth_signup
from dca.models import SignUpRequest, ValidateRequest

client = Client(base_url=sys.argv[1])
refused = post_licenses_validate.sync(client=client, body=ValidateRequest(license_key="STUDIO-…"))
assert (refused.status, refused.code) == (401, "NO_API_KEY"), refused
refused = post_auth_signup.sync(client=client, body=SignUpRequest(email="nobody", password="x", name="x"))
assert [error.field for error in refused.errors] == ["email"], refused

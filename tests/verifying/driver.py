import json
from verify import verify, verify_offline

for call in json.load(open("vectors.json"))["calls"]:
    answer = call["proof"], call["list"]
    try:
        if call["function"] == "verify":
            claims = verify(*answer, call["op"], call["nonce"], call["body"], call["now"])
        else:
            claims = verify_offline(*answer, call["fingerprint"], call["latest"], call["now"])
        print(claims["code"])
    except Exception:
        print()

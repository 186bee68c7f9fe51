local json, verdict = require "dkjson", require "verify"

for _, call in ipairs(json.decode(io.open("vectors.json"):read "*a").calls) do
  local ok, claims = pcall(function()
    if call["function"] == "verify" then
      return verdict.verify(call.proof, call.list, call.op, call.nonce, call.body, call.now)
    end
    return verdict.verify_offline(call.proof, call.list, call.fingerprint, call.latest, call.now)
  end)
  print(ok and claims.code or "")
end

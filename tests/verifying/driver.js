// Loads the code like a page does: with `nacl` as a global, and without modules.
const { readFileSync } = require("node:fs");
const { runInThisContext } = require("node:vm");

globalThis.nacl = require("tweetnacl");
runInThisContext(readFileSync("verify.js", "utf8"));
(async () => {
  for (const { function: name, proof, list, fingerprint, latest, now, ...sent } of JSON.parse(readFileSync("vectors.json", "utf8")).calls) {
    const claims = name === "verify" ? verify(proof, list, sent, now) : verifyOffline(proof, list, fingerprint, latest, now);
    console.log(await claims.then(({ code }) => code, () => ""));
  }
})();

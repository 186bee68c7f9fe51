// Uses the types that openapi-typescript generates. Only compiled.
import type { components, paths } from "./api";
type Validate = paths["/licenses/validate"]["post"];
type Verdict = Validate["responses"][200]["content"]["application/json"];
export const request: Validate["requestBody"]["content"]["application/json"] = { licenseKey: "STUDIO-…" };
export const isValid = (verdict: Verdict): boolean => verdict.valid && verdict.code === "VALID";
export const field = (problem: components["schemas"]["Problem"]): string | undefined => problem.errors?.[0]?.field;

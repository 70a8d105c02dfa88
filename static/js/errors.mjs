/** The errors of sippet, with the codes of the Python side (`sippet/errors.py`); a test keeps the two alike. */

export const CODES = Object.freeze([
  "error", "usage", "invalid_option", "unsupported_option", "unsupported_operation", "endpoint_not_found",
  "ambiguous_endpoint", "client_closed", "environment", "unsupported_environment", "asset", "storage", "model",
  "model_not_found", "invalid_model", "unsupported_model", "model_too_large", "engine", "engine_crashed",
  "context_overflow", "schema_mismatch", "queue_full", "remote", "authentication_failed", "rate_limited",
  "remote_unavailable", "cancelled",
]);

/** Any failure of sippet: `code` is stable, `message` says what happened, `hint` what to do, `details` are facts. */
export class SippError extends Error {
  /** @param {{code?: string, message?: string, hint?: string, details?: object, cause?: ?string}} fields */
  constructor({code = "error", message = "", hint = "", details = {}, cause = null} = {}) {
    super(hint ? `${message} ${hint}` : message, cause ? {cause} : undefined);
    this.name = "SippError";
    this.code = CODES.includes(code) ? code : "error";
    this.summary = message;
    this.hint = hint;
    this.details = details;
  }

  /** The fields as they cross a message port. */
  toJSON() {
    return {code: this.code, message: this.summary, hint: this.hint, details: this.details};
  }
}

// What a failed command says and how it exits: 2 for what the caller can mend by asking differently, 1 for the rest.
import { CommanderError } from "commander";
import { type ErrorCode, NibbleError } from "#packages/errors";

export const exitCodes = { ok: 0, failure: 1, badInput: 2 } as const;

const badInput: ReadonlySet<ErrorCode> = new Set([
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "FAILED_PRECONDITION",
  "OUT_OF_RANGE",
  "DATA_LOSS",
  "UNIMPLEMENTED",
]);

export interface Failure {
  exitCode: number;
  /** One line; with `isVerbose` the stack and its causes follow. */
  text: string;
}

/** A wrong command line, in the words that commander's own errors use. */
export function usageError(message: string): NibbleError {
  return new NibbleError(message, { code: "INVALID_ARGUMENT", op: "usage" });
}

export function failureOf(thrown: unknown, isVerbose: boolean): Failure {
  // Commander has printed help or version, or its error through writeError, by the time it throws.
  if (thrown instanceof CommanderError) {
    return { exitCode: thrown.exitCode === 0 ? exitCodes.ok : exitCodes.badInput, text: "" };
  }
  const error = NibbleError.from(thrown);
  const exitCode = badInput.has(error.code) ? exitCodes.badInput : exitCodes.failure;
  const text = `error: ${oneLine(error.message)}\n`;
  return { exitCode, text: isVerbose ? `${text}${stackOf(error)}\n` : text };
}

function oneLine(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, " ").trim();
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : "";
  return `${error.stack ?? error.message}${cause}`;
}

/** commander's "error: unknown option '--rnk'\n(Did you mean --rank?)\n" in the form of all our errors. */
export function commanderErrorLine(text: string): string {
  return `error: [usage] ${oneLine(text.replace(/^error: /, ""))}\n`;
}

// Settings that code under test reads from the process's environment, for the time of a test.
import type { TestContext } from "node:test";

/** Undefined: not set. */
export function setEnvironment(t: TestContext, settings: Readonly<Record<string, string | undefined>>): void {
  const put = (key: string, value: string | undefined) => {
    if (value === undefined) delete process.env[key];
    else process.env[key] = value;
  };
  const before = Object.keys(settings).map((key) => [key, process.env[key]] as const);
  t.after(() => {
    for (const [key, value] of before) put(key, value);
  });
  for (const [key, value] of Object.entries(settings)) put(key, value);
}

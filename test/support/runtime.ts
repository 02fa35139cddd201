// What tests change of the native runtime, set back when the file's tests have ended.
import { after } from "node:test";
import { chooseIsa, isa, setThreadCount, threadCount } from "#native";

/** Sets the instruction set and the number of threads back to what they are now. */
export function restoreRuntimeAfterTests(): void {
  const [set, threads] = [isa(), threadCount()];
  after(() => {
    chooseIsa(set);
    setThreadCount(threads);
  });
}

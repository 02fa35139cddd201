// Finds out before anything is started whether the ports of a stack are free: one clear error instead of a stack that
// is half up.
import { createServer } from "node:net";
import { NibbleError } from "#packages/errors";
import { portsOf, type StackConfig } from "./config.ts";

function listen(host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve()));
  });
}

export async function refuseTakenPorts(config: StackConfig): Promise<void> {
  const { host } = config;
  for (const port of portsOf(config)) {
    try {
      await listen(host, port);
    } catch (thrown) {
      const error = NibbleError.from(thrown, "start");
      const isTaken = (thrown as NodeJS.ErrnoException).code === "EADDRINUSE";
      const message = isTaken
        ? `${host}:${port}: expected a free port, got one that another process listens on; choose another with --port`
        : `${host}:${port}: expected an address to listen on, got: ${error.message}`;
      throw new NibbleError(message, { code: error.code, op: "start", cause: thrown });
    }
  }
}

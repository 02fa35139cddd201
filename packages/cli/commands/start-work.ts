// What nibble start does once its options are read; it is loaded then, and gRPC with it.
import { table } from "../format.ts";
import { localFolder } from "../hub-folder.ts";
import { type Io, line } from "../io.ts";
import { type StackConfig, serviceNames, stackConfig } from "../stack/config.ts";
import { gatewayHost, Stack } from "../stack/stack.ts";
import type { StartOptions } from "./start.ts";

function configOf(io: Io, { host, port, home }: StartOptions): StackConfig {
  const given = { NIBBLE_HOST: host, NIBBLE_PORT: port === undefined ? undefined : String(port), NIBBLE_HOME: home };
  return stackConfig({ ...io.env, ...Object.fromEntries(Object.entries(given).filter(([, v]) => v !== undefined)) });
}

export async function runStack(io: Io, options: StartOptions): Promise<void> {
  const config = configOf(io, options);
  if (options.model !== undefined) config.model = await localFolder(io, options.model);
  line(io.stderr, `starting the services, storage in ${config.home} …`);
  const stack = await Stack.start({ config, signal: io.signal, onLog: (_, text) => line(io.stdout, text) });
  const rows = serviceNames.map((name) => [`  ${name}`, stack.addresses[name]]);
  line(io.stderr, table([...rows, ["  all of them", stack.endpoint]], "left"));
  line(io.stderr, `HF_ENDPOINT=${stack.hub} makes the registry the Hub of Python and JavaScript; nibble asks it first`);
  line(
    io.stderr,
    `OPENAI_BASE_URL=http://${stack.addresses.gateway}/v1 is the gateway for programs that know OpenAI's API`,
  );
  if (gatewayHost(config.host) !== config.host) {
    line(io.stderr, "the gateway listens on this machine only: NIBBLE_GATEWAY_KEYS opens it to others");
  }
  line(io.stderr, `ready: nibble … --endpoint ${stack.endpoint}; Ctrl-C stops it`);
  const stopped = new Promise<void>((resolve) => io.signal.addEventListener("abort", () => resolve(), { once: true }));
  try {
    if (!io.signal.aborted) await Promise.race([stopped, stack.failure()]);
    line(io.stderr, "stopping: calls under way may finish …");
  } finally {
    await stack.stop();
  }
  line(io.stderr, "stopped");
}

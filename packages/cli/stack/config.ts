// Where a stack listens and keeps its files: the one place that says so. `npm start` prints it.
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { nibbleHome } from "#packages/hub";

export const serviceNames = ["quantizer", "trainer", "registry", "inference", "gateway"] as const;
export type ServiceName = (typeof serviceNames)[number];

export interface StackConfig {
  /** Only this machine can reach it unless told otherwise. */
  host: string;
  /** Of the address in front of all services; the services have the ports after it. 0: any free ones. */
  port: number;
  /** Jobs, adapters and databases are kept here. */
  home: string;
  /** Folder of the base that is served from the start; undefined: whoever asks for one loads it. */
  model?: string;
}

export const portDefault = 50050;
/** The registry's HTTP port, the Hub's API, comes so many after the stack's. */
export const hubPortAfter = 10;
export const endpointDefault = `127.0.0.1:${portDefault}`;
const root = fileURLToPath(new URL("../../../", import.meta.url));

/** NIBBLE_HOST, NIBBLE_PORT and NIBBLE_HOME. @throws RangeError for what is no port. */
export function stackConfig(env: Readonly<Record<string, string | undefined>>): StackConfig {
  const port = Number(env["NIBBLE_PORT"] ?? portDefault);
  if (!Number.isInteger(port) || port < 0 || port > 65_535 - hubPortAfter) {
    throw new RangeError(`[start] NIBBLE_PORT: expected a port, got ${env["NIBBLE_PORT"]}`);
  }
  return { host: env["NIBBLE_HOST"] ?? "127.0.0.1", port, home: nibbleHome(env) };
}

/** A service's folder in services/ is called after its name, the registry's after what it keeps. */
export function mainOf(name: ServiceName): string {
  return join(root, "services", name === "registry" ? "adapter-registry" : name, "main.ts");
}

function portOf(port: number, name: ServiceName): number {
  return port === 0 ? 0 : port + 1 + serviceNames.indexOf(name);
}

function hubPortOf(port: number): number {
  return port === 0 ? 0 : port + hubPortAfter;
}

/** Every port that a stack needs to be free. */
export function portsOf({ port }: StackConfig): number[] {
  return port === 0 ? [] : [port, ...serviceNames.map((name) => portOf(port, name)), hubPortOf(port)];
}

/** What a service of the stack is told: its own address and folder, and where those are that it may call. */
export function serviceEnv(
  { host, port, home, model }: StackConfig,
  name: ServiceName,
  known: Partial<Record<ServiceName, string>>,
): Record<string, string> {
  const prefix = `NIBBLE_${name.toUpperCase()}`;
  const endpoints = Object.entries(known).map(([other, address]) => [
    `NIBBLE_${other.toUpperCase()}_ENDPOINT`,
    address,
  ]);
  return {
    NIBBLE_HOME: home,
    [`${prefix}_HOST`]: host,
    [`${prefix}_PORT`]: String(portOf(port, name)),
    [`${prefix}_DIR`]: join(home, name),
    ...(name === "registry" ? { NIBBLE_REGISTRY_HUB_PORT: String(hubPortOf(port)) } : {}),
    ...(name === "inference" && model !== undefined ? { NIBBLE_INFERENCE_MODEL: resolve(model) } : {}),
    ...Object.fromEntries(endpoints),
  };
}

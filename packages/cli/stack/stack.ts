// All services as child processes of this one, and one address in front of them. It stops them in the order in which
// they depend on each other.
import { Operations } from "#gen/google/longrunning/operations_pb.ts";
import { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import { QuantizerService } from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { TrainerService } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { NibbleError } from "#packages/errors";
import { isLoopback } from "#packages/http";
import { createServer, type Forwarded, forward, type RunningServer } from "#packages/rpc";
import { mainOf, type ServiceName, type StackConfig, serviceEnv } from "./config.ts";
import { refuseTakenPorts } from "./ports.ts";
import { ServiceProcess } from "./service-process.ts";

export interface StackOptions {
  config: StackConfig;
  /** The services' log lines. */
  onLog?: (service: ServiceName, line: string) => void;
  signal?: AbortSignal;
}

/** Each starts when those before it listen, and stops before they do: it may call them. */
const layers: readonly (readonly ServiceName[])[] = [["registry"], ["quantizer", "inference", "trainer"], ["gateway"]];
const drainMs = 10_000;

export class Stack {
  /** host:port of each service. */
  readonly addresses: Readonly<Record<ServiceName, string>>;
  /** "http://host:port" of the Hub's API, which the registry serves. */
  readonly hub: string;
  private readonly processes: readonly ServiceProcess[];
  private readonly forwards: readonly Forwarded[];
  private readonly front: RunningServer;
  private isStopping = false;

  private constructor(
    addresses: Record<ServiceName, string>,
    hub: string,
    processes: ServiceProcess[],
    forwards: Forwarded[],
    front: RunningServer,
  ) {
    this.addresses = addresses;
    this.hub = hub;
    this.processes = processes;
    this.forwards = forwards;
    this.front = front;
  }

  /** @throws what a service said that could not start; nothing is left running then. */
  static async start(options: StackOptions): Promise<Stack> {
    const { config } = options;
    await refuseTakenPorts(config);
    const processes: ServiceProcess[] = [];
    const forwards: Forwarded[] = [];
    const addresses = {} as Record<ServiceName, string>;
    let hub = "";
    const onLog = (name: ServiceName, line: string) => {
      hub ||= /"hub":"([^"]+)"/.exec(line)?.[1] ?? "";
      options.onLog?.(name, line);
    };
    const start = async (name: ServiceName) => {
      const process = await startService(name, addresses, { ...options, onLog });
      processes.push(process);
      addresses[name] = process.address;
    };
    try {
      for (const layer of layers) {
        const started = await Promise.allSettled(layer.map(start));
        const failed = started.find((one) => one.status === "rejected");
        if (failed) throw failed.reason;
      }
      forwards.push(...frontServices(addresses));
      const front = await createServer({ services: forwards, host: config.host, port: config.port });
      return new Stack(addresses, hub, processes, forwards, front);
    } catch (thrown) {
      for (const one of forwards) one.close();
      await stopAll(processes);
      throw thrown;
    }
  }

  /** The address at which all services are that speak gRPC. */
  get endpoint(): string {
    return this.front.address;
  }

  /** Rejects when a service ends that was not told to; never resolves. */
  async failure(): Promise<never> {
    const ended = await Promise.race(this.processes.map((p) => p.exited.then(() => p.name)));
    if (this.isStopping) return new Promise<never>(() => {});
    throw new NibbleError(`${ended}: ended by itself; its log says why`, { code: "INTERNAL", op: "stack" });
  }

  async stop(): Promise<void> {
    this.isStopping = true;
    const drained = this.front.drain(drainMs);
    await stopAll(this.processes);
    await drained;
    for (const one of this.forwards) one.close();
  }
}

function frontServices(addresses: Record<ServiceName, string>): Forwarded[] {
  return [
    forward(QuantizerService, addresses.quantizer),
    forward(Operations, addresses.quantizer),
    forward(TrainerService, addresses.trainer),
    forward(RegistryService, addresses.registry),
    forward(InferenceService, addresses.inference),
  ];
}

async function stopAll(processes: readonly ServiceProcess[]): Promise<void> {
  for (const layer of layers.toReversed()) {
    const these = processes.filter(({ name }) => layer.some((one) => one === name));
    await Promise.all(these.map((process) => process.stop()));
  }
}

/** Without keys the gateway serves this machine alone, whoever the rest of the stack is for. */
export function gatewayHost(host: string, env: Readonly<Record<string, string | undefined>> = process.env): string {
  return env["NIBBLE_GATEWAY_KEYS"] || isLoopback(host) ? host : "127.0.0.1";
}

/** One service by itself; `known` are the addresses of those it may call. */
export function startService(
  name: ServiceName,
  known: Partial<Record<ServiceName, string>>,
  { config, onLog, signal }: StackOptions,
): Promise<ServiceProcess> {
  return ServiceProcess.start({
    name,
    script: mainOf(name),
    env: {
      ...serviceEnv(config, name, known),
      ...(name === "gateway" ? { NIBBLE_GATEWAY_HOST: gatewayHost(config.host) } : {}),
    },
    ...(onLog ? { onLog: (line) => onLog(name, line) } : {}),
    ...(signal ? { signal } : {}),
  });
}

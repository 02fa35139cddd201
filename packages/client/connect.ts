// Clients of all services. Nothing is dialled before the first call, so a client that is not used costs nothing.
import { Operations } from "#gen/google/longrunning/operations_pb.ts";
import { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import { QuantizerService } from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { TrainerService } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import type { Client, ClientOptions } from "#packages/rpc";
import { createClient } from "#packages/rpc";

/** host:port of each service. */
export interface Endpoints {
  quantizer: string;
  trainer: string;
  registry: string;
  inference: string;
}

/** Where the services listen unless they are told otherwise. */
export const defaultEndpoints: Readonly<Endpoints> = {
  quantizer: "127.0.0.1:50051",
  trainer: "127.0.0.1:50052",
  registry: "127.0.0.1:50053",
  inference: "127.0.0.1:50054",
};

export interface ConnectOptions extends ClientOptions {
  /** host:port at which all services are, for example a proxy. Default: `defaultEndpoints`. */
  endpoint?: string;
  /** Services that are elsewhere. */
  endpoints?: Partial<Endpoints>;
}

export type QuantizerClient = Client<typeof QuantizerService>;
export type OperationsClient = Client<typeof Operations>;
export type TrainerClient = Client<typeof TrainerService>;
export type RegistryClient = Client<typeof RegistryService>;
export type InferenceClient = Client<typeof InferenceService>;

export interface Connection extends Disposable {
  readonly endpoints: Readonly<Endpoints>;
  readonly quantizer: QuantizerClient;
  /** The quantizer's long-running operations. */
  readonly operations: OperationsClient;
  readonly trainer: TrainerClient;
  readonly registry: RegistryClient;
  readonly inference: InferenceClient;
  /** Ends every connection; calls that still run fail with UNAVAILABLE. */
  close(): void;
}

export function connect(options: ConnectOptions = {}): Connection {
  const { endpoint, endpoints: given, ...client } = options;
  const all = endpoint === undefined ? defaultEndpoints : allAt(endpoint);
  const endpoints = { ...all, ...given };
  const clients = {
    quantizer: createClient(QuantizerService, endpoints.quantizer, client),
    operations: createClient(Operations, endpoints.quantizer, client),
    trainer: createClient(TrainerService, endpoints.trainer, client),
    registry: createClient(RegistryService, endpoints.registry, client),
    inference: createClient(InferenceService, endpoints.inference, client),
  };
  const close = () => {
    for (const one of Object.values(clients)) one.close();
  };
  return { endpoints, ...clients, close, [Symbol.dispose]: close };
}

function allAt(endpoint: string): Endpoints {
  return { quantizer: endpoint, trainer: endpoint, registry: endpoint, inference: endpoint };
}

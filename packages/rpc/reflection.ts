// grpc.reflection v1 and v1alpha from protobuf-es descriptors, so that grpcurl and its like need no .proto files.
import type { DescFile, DescService } from "@bufbuild/protobuf";
import { toBinary } from "@bufbuild/protobuf";
import { nestedTypes } from "@bufbuild/protobuf/reflect";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { status } from "@grpc/grpc-js";
import { file_google_rpc_error_details } from "#gen/google/rpc/error_details_pb.ts";
import * as v1 from "#gen/grpc/reflection/v1/reflection_pb.ts";
import * as v1alpha from "#gen/grpc/reflection/v1alpha/reflection_pb.ts";
import type { Implementation } from "./server.ts";
import { implement } from "./server.ts";

type Request = v1.ServerReflectionRequest["messageRequest"];
type Response = Exclude<v1.ServerReflectionResponse["messageResponse"], { case: undefined }>;

class Index {
  readonly #files = new Map<string, DescFile>();
  /** Message, enum, extension, service and method names, and the file each is in. */
  readonly #symbols = new Map<string, DescFile>();
  /** Extension numbers by extended message. */
  readonly #extensions = new Map<string, Map<number, DescFile>>();
  readonly #services: string[];

  constructor(services: DescService[]) {
    this.#services = services.map((service) => service.typeName).sort();
    for (const service of services) this.#add(service.file);
    // Of an error's details, which no service's file imports.
    this.#add(file_google_rpc_error_details);
  }

  #add(file: DescFile): void {
    const name = file.proto.name;
    if (this.#files.has(name)) return;
    this.#files.set(name, file);
    for (const dependency of file.dependencies) this.#add(dependency);
    for (const type of nestedTypes(file)) {
      this.#symbols.set(type.typeName, file);
      if (type.kind === "service") {
        for (const method of type.methods) this.#symbols.set(`${type.typeName}.${method.name}`, file);
      } else if (type.kind === "extension") {
        const extendee = type.extendee.typeName;
        const numbers = this.#extensions.get(extendee) ?? new Map<number, DescFile>();
        this.#extensions.set(extendee, numbers.set(type.number, file));
      }
    }
  }

  /** The file and everything it imports, each once. */
  #withDependencies(file: DescFile | undefined, what: string): Response {
    if (!file) {
      const errorMessage = `[reflection] ${what}: expected a name that this server knows`;
      return { case: "errorResponse", value: { errorCode: status.NOT_FOUND, errorMessage } as never };
    }
    const seen = new Set<DescFile>();
    const visit = (one: DescFile) => {
      if (seen.has(one)) return;
      seen.add(one);
      for (const dependency of one.dependencies) visit(dependency);
    };
    visit(file);
    const fileDescriptorProto = [...seen].map((one) => toBinary(FileDescriptorProtoSchema, one.proto));
    return { case: "fileDescriptorResponse", value: { fileDescriptorProto } as never };
  }

  answer(request: Request): Response {
    switch (request.case) {
      case "listServices":
        return { case: "listServicesResponse", value: { service: this.#services.map((name) => ({ name })) } as never };
      case "fileByFilename":
        return this.#withDependencies(this.#files.get(request.value), request.value);
      case "fileContainingSymbol":
        return this.#withDependencies(this.#symbols.get(request.value), request.value);
      case "fileContainingExtension": {
        const { containingType, extensionNumber } = request.value;
        const file = this.#extensions.get(containingType)?.get(extensionNumber);
        return this.#withDependencies(file, `${containingType} ${extensionNumber}`);
      }
      case "allExtensionNumbersOfType": {
        const extensionNumber = [...(this.#extensions.get(request.value)?.keys() ?? [])].sort((a, b) => a - b);
        const value = { baseTypeName: request.value, extensionNumber };
        return { case: "allExtensionNumbersResponse", value: value as never };
      }
      default: {
        const errorMessage = "[reflection] message_request: expected one of its fields to be set, got none";
        return { case: "errorResponse", value: { errorCode: status.INVALID_ARGUMENT, errorMessage } as never };
      }
    }
  }
}

/** The two versions of the reflection service, describing `services` and themselves. */
export function reflectionServices(services: DescService[]): Implementation[] {
  const index = new Index([...services, v1.ServerReflection, v1alpha.ServerReflection]);
  const answerAll = async function* <R extends { host: string; messageRequest: unknown }>(requests: AsyncIterable<R>) {
    // v1alpha has the same messages as v1 under another package.
    for await (const originalRequest of requests) {
      const messageResponse = index.answer(originalRequest.messageRequest as Request);
      yield { validHost: originalRequest.host, originalRequest, messageResponse };
    }
  };
  return [
    implement(v1.ServerReflection, { serverReflectionInfo: (requests) => answerAll(requests) }),
    implement(v1alpha.ServerReflection, { serverReflectionInfo: (requests) => answerAll(requests) as never }),
  ];
}

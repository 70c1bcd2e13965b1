"""Calls a gRPC server as a Python program does. Nothing is generated: message types come from the server's reflection.

    python grpcio_client.py HOST:PORT CALLS

CALLS is JSON, a list of objects:

    method        "package.Service/Method"
    request       the request as proto-JSON
    timeout       seconds (optional)
    cancel_after  cancel after so many responses (optional)
    metadata      an object (optional)

An object {"health": "SERVICE"} asks grpc.health.v1 instead, by the stubs of grpcio-health-checking, and {"services": true}
lists the services. Prints a list with one object for each call: code, message, responses, details (of google.rpc, decoded),
and the names of the metadata that came first (headers) and last (trailers).
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2  # noqa: F401  its types are looked up by name when details are decoded
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status


class Client:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def run(self, call):
        if "services" in call:
            return {"services": sorted(self.database.get_services())}
        if "health" in call:
            return self.health(call["health"])
        return self.call(call)

    def health(self, service):
        stub = health_pb2_grpc.HealthStub(self.channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        except grpc.RpcError as error:
            return {"code": error.code().name}
        return {"code": "OK", "status": health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}

    def call(self, call):
        service, method = call["method"].split("/")
        method = self.pool.FindServiceByName(service).methods_by_name[method]
        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        start = kind(
            "/" + call["method"],
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        request = json_format.ParseDict(call["request"], request_type(), descriptor_pool=self.pool)
        metadata = list(call.get("metadata", {}).items())
        options = {"timeout": call.get("timeout", 60), "metadata": metadata}
        if method.server_streaming:
            return self.outcome(start(request, **options), call.get("cancel_after"))
        future = start.future(request, **options)
        return self.outcome(future, None, unary=True)

    def outcome(self, running, cancel_after, unary=False):
        responses = []
        try:
            for response in [running.result()] if unary else running:
                as_json = json_format.MessageToDict(response, preserving_proto_field_name=True, descriptor_pool=self.pool)
                responses.append(as_json)
                if cancel_after and len(responses) == cancel_after:
                    running.cancel()
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass
        return {
            "code": running.code().name,
            "message": running.details(),
            "responses": responses,
            "details": details(running),
            "headers": [key for key, _ in running.initial_metadata() or ()],
            "trailers": [key for key, _ in running.trailing_metadata() or ()],
        }


def details(ended):
    status = rpc_status.from_call(ended)
    return [json_format.MessageToDict(detail) for detail in status.details] if status else []


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    client = Client(sys.argv[1])
    json.dump([client.run(call) for call in json.loads(sys.argv[2])], sys.stdout)


if __name__ == "__main__":
    main()

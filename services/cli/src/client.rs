//! The connection to a server.

use std::time::Duration;

use kr_proto::serve::inference_service_client::InferenceServiceClient;
use kr_proto::serve::model_service_client::ModelServiceClient;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::error::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which server, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServerArgs {
    /// The server's gRPC address.
    #[arg(long, default_value = "http://127.0.0.1:50051", env = "KR_SERVER")]
    pub(crate) server: String,
    /// API key, where the server asks for one.
    #[arg(long, env = "KR_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
}

/// Adds the API key to each call.
#[derive(Debug, Clone)]
pub(crate) struct ApiKey(Option<MetadataValue<tonic::metadata::Ascii>>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// A connected server. Cheap to clone; clones share one connection.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    channel: Channel,
    api_key: ApiKey,
}

impl Server {
    /// Connects.
    ///
    /// # Errors
    /// The address is malformed, or nobody answers within five seconds.
    pub(crate) async fn connect(args: &ServerArgs) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(args.server.clone())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"))
            .ok_or_else(|| Error::Address {
                server: args.server.clone(),
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20));
        let channel = endpoint.connect().await.map_err(|source| Error::Connect {
            server: args.server.clone(),
            source,
        })?;
        let key = args.api_key.as_ref().map(|key| format!("Bearer {key}").parse());
        let key = key
            .transpose()
            .map_err(|_| Error::Input("--api-key: only printable ASCII is allowed".into()))?;
        Ok(Self {
            channel,
            api_key: ApiKey(key),
        })
    }

    pub(crate) fn inference(&self) -> InferenceServiceClient<InterceptedService<Channel, ApiKey>> {
        InferenceServiceClient::with_interceptor(self.channel.clone(), self.api_key.clone())
    }

    pub(crate) fn models(&self) -> ModelServiceClient<InterceptedService<Channel, ApiKey>> {
        ModelServiceClient::with_interceptor(self.channel.clone(), self.api_key.clone())
    }
}

//! Whether the engine keeps a disk limit, found out by asking for one: storage drivers that have the option refuse it where
//! the file system below does not play along (xfs without project quotas, btrfs without quotas).

use std::collections::HashMap;

use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use wharf_ports::runtime::Result;

use crate::engine::{Engine, PATIENCE};

/// What is made for it, and gone after it. Two who try at once take each other's away, which changes no answer.
const NAME: &str = "wharf-try-disk-limit";
const LIMIT: &str = "64M";
/// A tar with nothing in it: two blocks of zeros (POSIX.1-2017, pax, "ustar Interchange Format").
const EMPTY_TAR: [u8; 1024] = [0; 1024];

pub async fn try_limit(engine: &Engine) -> Result<bool> {
    let step = "try a disk limit";
    let client = engine.client(PATIENCE).await?;
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(NAME).tag("latest").build();
    let nothing = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(&EMPTY_TAR))]);
    let sent = client.create_image(Some(options), Some(bollard::body_try_stream(nothing)), None);
    sent.try_collect::<Vec<_>>().await.map_err(|e| engine.fault(step, e))?;
    let body = ContainerCreateBody {
        image: Some(NAME.to_owned()),
        cmd: Some(vec!["/nothing".to_owned()]),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            storage_opt: Some(HashMap::from([("size".to_owned(), LIMIT.to_owned())])),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    clear(engine).await?;
    let options = CreateContainerOptionsBuilder::new().name(NAME).build();
    let made = client.create_container(Some(options), body).await;
    let can = match made {
        // 409: made by somebody who tries it at this moment.
        Ok(_) | Err(Error::DockerResponseServerError { status_code: 409, .. }) => true,
        Err(Error::DockerResponseServerError { message, .. }) => {
            tracing::info!(message, "the engine keeps no disk limit");
            false
        }
        Err(error) => return Err(engine.fault(step, error)),
    };
    clear(engine).await?;
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    if let Err(error) = client.remove_image(NAME, Some(options), None).await {
        tracing::debug!(%error, "the image of a try was not removed");
    }
    Ok(can)
}

/// One that an earlier try left, or this one made.
async fn clear(engine: &Engine) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    match engine.client(PATIENCE).await?.remove_container(NAME, Some(options)).await {
        Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        Err(error) => Err(engine.fault("clear up after a try", error)),
    }
}

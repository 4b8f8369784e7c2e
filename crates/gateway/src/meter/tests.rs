use super::*;

fn meter(connections_per_second: u32, bytes_per_second: u64) -> Arc<Meter> {
    let settings = settings::Gateway {
        connections_per_second,
        bytes_per_second,
        max_connections: 2,
        ..settings::Gateway::default()
    };
    Arc::new(Meter::new(&settings))
}

#[test]
fn connections_over_the_limit_are_refused_by_its_name_until_one_closes() {
    let meter = meter(100, 0);
    let one = meter.enter().ok();
    let _two = meter.enter().ok();
    let refused = meter.enter().err().map(|r| r.detail).unwrap_or_default();
    assert!(refused.contains("gateway.max_connections"), "{refused}");
    drop(one);
    assert!(meter.enter().is_ok());
}

#[tokio::test(start_paused = true)]
async fn requests_are_slowed_down_and_refused_when_the_queue_is_too_long() {
    let meter = meter(10, 0);
    let begun = Instant::now();
    for _ in 0..30 {
        assert!(meter.pace().await.is_ok());
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_millis(1300), "{took:?}");
    let all: Vec<_> = (0..200).map(|_| meter.pace()).collect();
    let refused =
        futures_util::future::join_all(all).await.into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(refused.len() > 100, "{}", refused.len());
    assert!(refused[0].detail.contains("gateway.connections_per_second"));
}

#[tokio::test(start_paused = true)]
async fn bytes_cost_time_once_the_first_second_is_used() {
    let meter = meter(10, 1000);
    assert_eq!(meter.bytes(1000), Duration::ZERO);
    assert_eq!(meter.bytes(500), Duration::from_millis(500));
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(meter.bytes(1000), Duration::from_secs(1));
    assert_eq!(Meter::new(&settings::Gateway::default()).bytes(1 << 40), Duration::ZERO);
}

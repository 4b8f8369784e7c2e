//! What every runtime must do, on Docker Engine.

use wharf_testkit::runtime_contract;

use crate::harness::start;

runtime_contract!(start);

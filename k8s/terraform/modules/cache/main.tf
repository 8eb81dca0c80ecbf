resource "google_redis_instance" "this" {
  project             = var.project_id
  name                = var.name
  region              = var.region
  labels              = var.labels
  tier                = var.highly_available ? "STANDARD_HA" : "BASIC"
  memory_size_gb      = var.memory_size_gb
  redis_version       = var.redis_version
  deletion_protection = var.deletion_protection

  connect_mode       = "PRIVATE_SERVICE_ACCESS"
  authorized_network = var.network_id
  reserved_ip_range  = var.private_services_range_name

  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  customer_managed_key    = var.kms_key_id

  # The queue of tasks is in it: what is full refuses, and forgets nothing by itself.
  redis_configs = {
    maxmemory-policy = "noeviction"
  }

  persistence_config {
    persistence_mode    = "RDB"
    rdb_snapshot_period = "ONE_HOUR"
  }

  maintenance_policy {
    weekly_maintenance_window {
      day = "SUNDAY"

      start_time {
        hours   = 4
        minutes = 0
        seconds = 0
        nanos   = 0
      }
    }
  }
}

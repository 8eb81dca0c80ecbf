locals {
  # Whoever opens a connection, waits for a lock or spills to disk is in the log.
  flags = {
    max_connections            = tostring(var.connections_max)
    log_checkpoints            = "on"
    log_connections            = "on"
    log_disconnections         = "on"
    log_duration               = "off"
    log_hostname               = "off"
    log_lock_waits             = "on"
    log_min_duration_statement = "-1"
    log_min_error_statement    = "error"
    log_min_messages           = "error"
    log_statement              = "ddl"
    log_temp_files             = "0"
    # A prediction is answered only when its booking is on disk (docs/ledger.md).
    synchronous_commit                  = "on"
    idle_in_transaction_session_timeout = "60000"
    "cloudsql.enable_pgaudit"           = "on"
    "pgaudit.log"                       = "ddl,role"
  }
}

resource "google_sql_database_instance" "this" {
  project             = var.project_id
  name                = var.name
  region              = var.region
  database_version    = "POSTGRES_18"
  encryption_key_name = var.kms_key_id
  deletion_protection = var.deletion_protection

  settings {
    tier                        = var.tier
    edition                     = "ENTERPRISE"
    availability_type           = var.highly_available ? "REGIONAL" : "ZONAL"
    disk_type                   = "PD_SSD"
    disk_size                   = var.disk_size_gb
    disk_autoresize             = true
    disk_autoresize_limit       = var.disk_size_gb_max
    user_labels                 = var.labels
    deletion_protection_enabled = var.deletion_protection
    retain_backups_on_delete    = true

    ip_configuration {
      ipv4_enabled       = false
      private_network    = var.network_id
      allocated_ip_range = var.private_services_range_name
      ssl_mode           = "ENCRYPTED_ONLY"
    }

    backup_configuration {
      enabled                        = true
      point_in_time_recovery_enabled = true
      start_time                     = "02:00"
      location                       = var.region
      transaction_log_retention_days = var.log_retention_days

      backup_retention_settings {
        retained_backups = var.backups_kept
        retention_unit   = "COUNT"
      }
    }

    # Sunday, 03:00 UTC: after the backup.
    maintenance_window {
      day          = 7
      hour         = 3
      update_track = "stable"
    }

    insights_config {
      query_insights_enabled  = true
      record_application_tags = false
      record_client_address   = false
    }

    dynamic "database_flags" {
      for_each = local.flags

      content {
        name  = database_flags.key
        value = database_flags.value
      }
    }
  }

  lifecycle {
    # It has grown by itself since.
    ignore_changes = [settings[0].disk_size]
  }
}

# Its roles are made in the key ceremony: a password here would lie in the state.
resource "google_sql_database" "strongroom" {
  project  = var.project_id
  name     = "strongroom"
  instance = google_sql_database_instance.this.name

  deletion_policy = "ABANDON"
}

resource "google_container_cluster" "this" {
  #checkov:skip=CKV_GCP_66:Enforced where binary_authorization is true; it needs a policy first
  #checkov:skip=CKV_GCP_12:Dataplane V2 enforces policies; this argument is for the engine before it
  #checkov:skip=CKV_GCP_65:Groups need a domain of Google Workspace, which not everybody has
  project        = var.project_id
  name           = var.name
  location       = var.region
  node_locations = var.zones

  deletion_protection = var.deletion_protection
  resource_labels     = var.labels

  # Pools are resources of their own (module pools): a change to one does not touch the others.
  remove_default_node_pool = true
  initial_node_count       = 1

  network         = var.network_id
  subnetwork      = var.subnetwork_id
  networking_mode = "VPC_NATIVE"

  # Dataplane V2: the cluster's network policies are enforced, and refusals can be seen.
  datapath_provider            = "ADVANCED_DATAPATH"
  enable_intranode_visibility  = true
  in_transit_encryption_config = "IN_TRANSIT_ENCRYPTION_INTER_NODE_TRANSPARENT"

  enable_shielded_nodes = true
  enable_legacy_abac    = false

  ip_allocation_policy {
    cluster_secondary_range_name  = var.pods_range_name
    services_secondary_range_name = var.services_range_name
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = var.private_endpoint
    master_ipv4_cidr_block  = var.control_plane_cidr
  }

  master_authorized_networks_config {
    gcp_public_cidrs_access_enabled = false

    dynamic "cidr_blocks" {
      for_each = var.authorized_networks

      content {
        display_name = cidr_blocks.key
        cidr_block   = cidr_blocks.value
      }
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  release_channel {
    channel = var.release_channel
  }

  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }

  database_encryption {
    state    = "ENCRYPTED"
    key_name = var.secrets_key_id
  }

  binary_authorization {
    evaluation_mode = var.binary_authorization ? "PROJECT_SINGLETON_POLICY_ENFORCE" : "DISABLED"
  }

  addons_config {
    http_load_balancing {
      disabled = false
    }

    dns_cache_config {
      enabled = true
    }

    gce_persistent_disk_csi_driver_config {
      enabled = true
    }

    gcs_fuse_csi_driver_config {
      enabled = true
    }
  }

  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }

  node_pool_defaults {
    node_config_defaults {
      insecure_kubelet_readonly_port_enabled = "FALSE"

      # Image streaming: a container starts before all of its image is there.
      gcfs_config {
        enabled = true
      }
    }
  }

  # The first pool lives for a minute, and still gets no more rights than the others.
  node_config {
    machine_type      = "e2-medium"
    service_account   = var.machines_email
    boot_disk_kms_key = var.disk_key_id
    oauth_scopes      = ["https://www.googleapis.com/auth/cloud-platform"]

    metadata = {
      disable-legacy-endpoints = "true"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS", "APISERVER", "SCHEDULER", "CONTROLLER_MANAGER"]
  }

  monitoring_config {
    enable_components = [
      "SYSTEM_COMPONENTS", "APISERVER", "SCHEDULER", "CONTROLLER_MANAGER",
      "STORAGE", "POD", "DEPLOYMENT", "STATEFULSET", "DAEMONSET", "HPA", "DCGM",
    ]

    managed_prometheus {
      enabled = true
    }

    advanced_datapath_observability_config {
      enable_metrics = true
      enable_relay   = false
    }
  }

  security_posture_config {
    mode               = "BASIC"
    vulnerability_mode = "VULNERABILITY_BASIC"
  }

  cost_management_config {
    enabled = true
  }

  maintenance_policy {
    recurring_window {
      start_time = var.maintenance_start
      end_time   = var.maintenance_end
      recurrence = var.maintenance_recurrence
    }
  }

  lifecycle {
    # The pool that these describe is gone after the first minute.
    ignore_changes = [node_config, initial_node_count]

    precondition {
      condition     = var.private_endpoint || length(var.authorized_networks) > 0
      error_message = "A public control plane needs authorized_networks: without any, nobody could reach it."
    }
  }
}
